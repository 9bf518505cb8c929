"""What scores depend on, as the name of their folder."""

import torch

from baal_ray import images, storage
from baal_ray.config import ScoringConfig
from baal_ray.scoring import gpu_decoding
from baal_ray.workspace.records import Fingerprint

# Raise it when the same checkpoint, settings and pixels give other scores than before.
_ENGINE = 3


def fingerprint_uri(scores: str, checkpoint: str, config: ScoringConfig, seed: int) -> str:
    """The folder of a fingerprint: a hash of all that scores depend on, but the pool."""
    return storage.join(scores, fingerprint(checkpoint, config, seed).name)


def fingerprint(checkpoint: str, config: ScoringConfig, mask_seed: int) -> Fingerprint:
    """Everything that scores depend on, except the pool."""
    return Fingerprint(
        checkpoint=checkpoint.rstrip("/").rsplit("/", 1)[-1],
        samples=config.samples,
        masks=config.masks,
        stochastic_depth=config.stochastic_depth,
        precision=config.precision,
        mask_seed=mask_seed,
        batch_size=config.mini_batch,
        max_pixels=config.max_pixels,
        decoder=decoder_version(config),
        engine=_ENGINE,
        torch=str(torch.__version__),
    )


def decoder_version(config: ScoringConfig) -> str:
    """What decodes the pool's images.

    Raises:
        ConfigError: it is not installed.
    """
    if config.decode_on == "gpu":
        return gpu_decoding.decoder_version()
    return images.decoder_version()
