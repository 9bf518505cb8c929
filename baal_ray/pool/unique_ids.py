"""The check that every image of the pool has an id, and that no two share one.

It reads every id, so it also counts those that are evaluation images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray

from baal_ray.errors import PoolError
from baal_ray.ids import Hashes, IdSet, hash_ids
from baal_ray.pool.listing import PoolListing, id_column
from baal_ray.storage.bounded_rows import bounded_rows
from baal_ray.storage.parquet import open_parquet

# Ids per reducer of the check for duplicates: 64 MB of hashes.
_IDS_PER_PARTITION = 4_000_000


def check_ids(listing: PoolListing, evaluation: IdSet | None = None) -> int:
    """Refuse null, empty and duplicate ids, and count those of evaluation images.

    Ids are hashed to 16 bytes. The hashes go through the object store in partitions of 64 MB. 10⁸
    ids cost 1.6 GB of the object store over all nodes, plus reading the id column.

    Args:
        listing: Listing of the pool.
        evaluation: Ids of the evaluation images.

    Returns:
        The number of images in the pool whose ids are in `evaluation`.

    Raises:
        PoolError: If there are such ids. The message gives examples.
    """
    partitions = max(1, math.ceil(listing.rows / _IDS_PER_PARTITION))
    hash_file = ray.remote(num_returns=1 + partitions)(_hash_file)
    doubled, count = ray.remote(_doubled), ray.remote(_count)
    # Typed as one object per call, whatever `num_returns` says.
    parts: list[Any] = [hash_file.remote(file.uri, partitions) for file in listing.files]
    for file, none in zip(listing.files, ray.get([part[0] for part in parts]), strict=True):
        if len(none):
            raise PoolError(
                f"{file.uri} has {len(none)} rows with a null or empty id (rows "
                f"{', '.join(map(str, none[:5]))}, counted from 0); every image needs an id"
            )
    by_partition = [[part[1 + i] for part in parts] for i in range(partitions)]
    again = np.concatenate(ray.get([doubled.remote(*hashes) for hashes in by_partition]))
    if len(again):
        raise PoolError(
            f"{len(again)} ids occur more than once in the pool; an id must name one image. "
            f"Examples: {_where(listing, IdSet(np.sort(again)[:5]))}"
        )
    if not evaluation:
        return 0
    known = ray.put(evaluation)
    return sum(ray.get([count.remote(known, *hashes) for hashes in by_partition]))


def _hash_file(uri: str, partitions: int) -> tuple[npt.NDArray[np.int64] | Hashes, ...]:
    """Return the rows without an id, then the other rows' hashes by partition."""
    without, hashed, start = [np.empty(0, np.int64)], [hash_ids([])], 0
    with open_parquet(uri) as parquet:
        for batch in bounded_rows(parquet, ["id"]):
            ids = id_column(batch, uri)
            given = pc.fill_null(pc.not_equal(ids, ""), False)
            without.append(start + np.flatnonzero(~given.to_numpy(zero_copy_only=False)))
            hashed.append(hash_ids(ids.filter(given)))
            start += len(ids)
    hashes = np.concatenate(hashed)
    partition = hashes.view(np.uint64)[::2] % np.uint64(partitions)
    return np.concatenate(without), *(hashes[partition == i] for i in range(partitions))


def _doubled(*parts: Hashes) -> Hashes:
    hashes, counts = np.unique(np.concatenate(parts), return_counts=True)
    return hashes[counts > 1]


def _count(known: IdSet, *parts: Hashes) -> int:
    return int(known.holds(np.concatenate(parts)).sum())


def _where(listing: PoolListing, ids: IdSet) -> str:
    """Describe a few ids and the files that contain them."""
    places: dict[str, list[str]] = {}
    for rows in listing.read_ids():
        found = rows.filter(pa.array(ids.contains(rows["id"])))
        for image_id, source in zip(
            found["id"].to_pylist(), found["source"].to_pylist(), strict=True
        ):
            places.setdefault(image_id, []).append(source)
    return "; ".join(f"{image_id!r} in {_distinct(files)}" for image_id, files in places.items())


def _distinct(files: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(files))
