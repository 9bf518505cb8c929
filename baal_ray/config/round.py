"""The configuration of an acquisition round."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from baal_ray.config.document import Document
from baal_ray.config.sections import (
    Classes,
    Location,
    ModelConfig,
    NotifyConfig,
    PoolConfig,
    ResourcesConfig,
    ScoringConfig,
    SelectionConfig,
    TrainingConfig,
)
from baal_ray.storage.uri_rules import broken_rule


def _read_alike(location: str) -> str:
    if rule := broken_rule(location):
        raise ValueError(rule)
    return location


class RoundConfig(Document):
    """The complete configuration of a round; `RoundConfig.from_yaml` reads it from a file."""

    workspace: Annotated[Location, AfterValidator(_read_alike)]
    classes: Classes
    pool: PoolConfig
    selection: SelectionConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    scoring: ScoringConfig = ScoringConfig()
    resources: ResourcesConfig = ResourcesConfig()
    notify: NotifyConfig = NotifyConfig()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    def planned(self) -> dict[str, Any]:
        """Return the settings that a round's plan fixes: those that can change its result."""
        return self.model_dump(
            mode="json",
            exclude={
                "notify": True,
                "resources": True,
                "scoring": {"max_unreadable"},
                "training": {"max_failures"},
            },
        )

    @model_validator(mode="after")
    def _apart(self) -> "RoundConfig":
        pool = self.pool.uri.rstrip("/") + "/"
        if f"{self.workspace.rstrip('/')}/".startswith(pool):
            raise ValueError(
                f"workspace is {self.workspace!r}, inside the pool {self.pool.uri!r}; it must be "
                "elsewhere, because its files would be taken for images of the pool"
            )
        return self

    @model_validator(mode="after")
    def _decodes_where_it_scores(self) -> "RoundConfig":
        if self.scoring.decode_on == "gpu" and not self.resources.scoring_gpus:
            raise ValueError(
                "scoring.decode_on is gpu, but resources.scoring_gpus is 0; it must be more than "
                "0, or decode_on must be cpu"
            )
        return self

    @model_validator(mode="after")
    def _has_a_trained_model(self) -> "RoundConfig":
        if not self.training.epochs and self.model.weights is None:
            raise ValueError(
                "training.epochs is 0, but model.weights is not set; set it to the weights of a "
                "trained model, or fit for at least 1 epoch"
            )
        return self

    @model_validator(mode="after")
    def _rule_fits(self) -> "RoundConfig":
        self.selection.check(self.scoring, "selection.by")
        return self
