"""What scores depend on, as the name of their folder."""

import json
from typing import Any

import torch

from baal_ray import images, storage
from baal_ray.config import ScoringConfig
from baal_ray.scoring import gpu_decoding

# Raise it when the same checkpoint, settings and pixels give other scores than before.
_ENGINE = 3


def fingerprint_uri(scores: str, checkpoint: str, config: ScoringConfig, seed: int) -> str:
    """The folder of a fingerprint: a hash of all that scores depend on, but the pool."""
    depends_on = json.dumps(_depends_on(checkpoint, config, seed), sort_keys=True)
    return storage.join(scores, storage.sha256(depends_on.encode())[:32])


def _depends_on(checkpoint: str, config: ScoringConfig, seed: int) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.rstrip("/").rsplit("/", 1)[-1],
        "samples": config.samples,
        "masks": config.masks,
        "stochastic_depth": config.stochastic_depth,
        "precision": config.precision,
        "seed": seed,
        "batch_size": config.batch_size,
        "max_pixels": config.max_pixels,
        "decoder": decoder_version(config),
        "engine": _ENGINE,
        "torch": torch.__version__,
    }


def decoder_version(config: ScoringConfig) -> str:
    """What decodes the pool's images.

    Raises:
        ConfigError: it is not installed.
    """
    if config.decode_on == "gpu":
        return gpu_decoding.decoder_version()
    return images.decoder_version()
