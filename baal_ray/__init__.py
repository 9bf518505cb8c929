"""Distributed Bayesian active learning on Ray.

Fit a model on the labelled set with Ray Train, score the unlabelled pool by Monte Carlo dropout
with Ray Data, and commit the most informative images to a labelled manifest, once a round.
Importing this package loads neither torch nor Ray; the public names below load what they need when
they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baal_ray.config import RoundConfig as RoundConfig
    from baal_ray.driver import RoundResult as RoundResult
    from baal_ray.driver import run_round as run_round
    from baal_ray.errors import BaalRayError as BaalRayError
    from baal_ray.manifest import Manifest as Manifest
    from baal_ray.posterior import MCDropout as MCDropout
    from baal_ray.scoring import score_pool as score_pool
    from baal_ray.selection import top_k as top_k

__version__ = "0.1.0"

_HOME = {
    "BaalRayError": "errors",
    "MCDropout": "posterior",
    "Manifest": "manifest",
    "RoundConfig": "config",
    "RoundResult": "driver",
    "run_round": "driver",
    "score_pool": "scoring",
    "top_k": "selection",
}
__all__ = [
    "BaalRayError",
    "MCDropout",
    "Manifest",
    "RoundConfig",
    "RoundResult",
    "__version__",
    "run_round",
    "score_pool",
    "top_k",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"baal_ray.{_HOME[name]}"), name)
    raise AttributeError(f"module 'baal_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
