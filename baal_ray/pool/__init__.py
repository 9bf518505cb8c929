"""The unlabelled pool: listed once per round, then read as a Ray Dataset."""

from baal_ray.pool.listing import PoolListing, list_pool
from baal_ray.pool.reading import is_exhausted, read_pool, sample_pool
from baal_ray.pool.unique_ids import check_ids

__all__ = ["PoolListing", "check_ids", "is_exhausted", "list_pool", "read_pool", "sample_pool"]
