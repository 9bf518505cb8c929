"""The configuration of an experiment that compares acquisition rules with random picks."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from baal_ray.config import (
    Classes,
    Count,
    Document,
    Location,
    ModelConfig,
    RuleConfig,
    ScoringConfig,
    TrainingConfig,
)


class TrialConfig(RuleConfig):
    """An acquisition rule on trial."""

    @property
    def name(self) -> str:
        """Name of the rule in files and on pages."""
        coldness = "" if self.coldness == 1 else f"-{self.coldness:g}"
        spread = "" if self.most_alike is None else f"-spread-{self.most_alike:g}"
        return f"{self.by}{coldness}{spread}"


def _named(rule: Any) -> Any:
    return {"by": rule} if isinstance(rule, str) else rule


class ExperimentConfig(Document):
    """All settings of an experiment. `ExperimentConfig.from_yaml` reads them from a file.

    Settings that a round also has mean the same here.
    """

    folder: Location
    classes: Classes
    labelled: Location
    rules: Annotated[list[Annotated[TrialConfig, BeforeValidator(_named)]], Field(min_length=1)]
    seeds: Count = 5
    start: Count = 2
    k: Count = 10
    rounds: Count = 10
    scored: Count | None = None
    candidates: Count = 500
    target_images: Count = 500
    accuracies: list[Annotated[float, Field(gt=0, lt=1)]] = Field([0.8, 0.9, 0.95], min_length=1)
    training: TrainingConfig
    model: ModelConfig = ModelConfig()
    scoring: ScoringConfig = ScoringConfig()
    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0

    @field_validator("scoring")
    @classmethod
    def _fixed(cls, scoring: ScoringConfig) -> ScoringConfig:
        if scoring.batch_size is None:
            raise ValueError("batch_size is null; in an experiment it must be a number")
        if scoring.decode_on != "cpu":
            raise ValueError(
                f"decode_on is {scoring.decode_on}; in an experiment it must be cpu, because its "
                "images are decoded once for all curves"
            )
        return scoring

    @property
    def most_labels(self) -> int:
        """Number of labels at the end of a curve."""
        return self.start * len(self.classes) + self.rounds * self.k

    def of_a_curve(self) -> dict[str, Any]:
        """Return the settings a curve depends on. Changing any other does not invalidate it."""
        return self.model_dump(
            mode="json",
            exclude={
                **dict.fromkeys(
                    ("rules", "seeds", "rounds", "accuracies", "cpus", "gpus", "folder"), True
                ),
                "scoring": {"decode_on"},
            },
        )

    def shown(self) -> dict[str, Any]:
        """Return the settings to show to people, by their full names, without locations."""
        settings = self.model_dump(
            mode="json",
            exclude={
                "folder": True,
                "labelled": True,
                "rules": True,
                "classes": True,
                "training": {"evaluation_set", "held_out", "max_failures"},
                "scoring": {"decode_on"},
            },
        )
        return dict(_flat(settings))

    @field_validator("training")
    @classmethod
    def _can_be_compared(cls, training: TrainingConfig) -> TrainingConfig:
        if training.evaluation_set is None:
            raise ValueError(
                "evaluation_set is not set; it is required, because curves are compared by their "
                "accuracy on the same images"
            )
        if not training.epochs:
            raise ValueError(
                "epochs is 0; in an experiment it must be at least 1, because each point of a "
                "curve is a fit"
            )
        return training

    @model_validator(mode="after")
    def _distinct(self) -> "ExperimentConfig":
        names = [rule.name for rule in self.rules]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rules names {', '.join(doubled)} twice; name each rule once")
        return self

    @model_validator(mode="after")
    def _possible(self) -> "ExperimentConfig":
        for number, rule in enumerate(self.rules):
            rule.check(self.scoring, f"rules.{number}.by")
        if self.candidates < self.k:
            raise ValueError(
                f"candidates is {self.candidates}; it must be at least k, which is {self.k}"
            )
        return self


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
