"""Everything that decides a score, except the image."""

from dataclasses import dataclass, field, replace

import torch

from baal_ray import images, storage
from baal_ray.config import ModelConfig, ResourcesConfig, RoundConfig, ScoringConfig
from baal_ray.scoring import gpu_decoding
from baal_ray.scoring.trace_fault import may_be_traced
from baal_ray.workspace.records import Fingerprint

# Version of the scoring code. Raise it if the same checkpoint, settings and pixels give different
# scores than before.
_ENGINE = 5


@dataclass(frozen=True)
class ScoringJob:
    """A model, the settings to score with it, and the resources to score on.

    Attributes:
        checkpoint: Checkpoint folder, `…/checkpoints/<sha256>`.
        config: Settings for scoring.
        resources: Resources of the scoring actors. They do not change a score.
        mask_seed: Seed of the posterior samples' masks.
        traced: Whether the model is traced.
        model: Configuration whose factory may build the model, as for `load_checkpoint`.
    """

    checkpoint: str
    config: ScoringConfig = field(default_factory=ScoringConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    mask_seed: int = 0
    traced: bool = True
    model: ModelConfig | None = None

    @classmethod
    def of_round(cls, checkpoint: str, config: RoundConfig) -> "ScoringJob":
        """Return the job by which a round scores with a checkpoint."""
        return cls(
            checkpoint,
            config.scoring,
            config.resources,
            mask_seed=config.seed,
            traced=may_be_traced(checkpoint),
            model=config.model,
        )

    @property
    def on_gpu(self) -> bool:
        """Whether the actors have GPUs."""
        return self.resources.scoring_gpus > 0

    @property
    def fingerprint(self) -> Fingerprint:
        """Everything that these scores depend on, except the pool.

        Raises:
            ConfigError: If the configured decoder is not installed.
        """
        config = self.config
        return Fingerprint(
            checkpoint=storage.name(self.checkpoint),
            samples=config.samples,
            masks=config.masks,
            stochastic_depth=config.stochastic_depth,
            precision=config.precision,
            mask_seed=self.mask_seed,
            batch_size=config.mini_batch,
            max_pixels=config.max_pixels,
            decoder=decoder_version(config),
            engine=_ENGINE,
            torch=str(torch.__version__),
            traced=self.traced,
        )

    def folder(self, scores: str) -> str:
        """Return the folder of these scores in a folder of scores."""
        return storage.join(scores, self.fingerprint.name)

    def with_config(self, config: ScoringConfig) -> "ScoringJob":
        """Return the job with other settings."""
        return replace(self, config=config)


def decoder_version(config: ScoringConfig) -> str:
    """Return the name and version of the decoder for the pool's images.

    Raises:
        ConfigError: If the decoder is not installed.
    """
    if config.decode_on == "gpu":
        return gpu_decoding.decoder_version()
    return images.decoder_version()
