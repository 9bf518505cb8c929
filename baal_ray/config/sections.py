"""The sections of a configuration: every setting, with the values it allows and its default."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from baal_ray.config.document import Section
from baal_ray.score_names import FOR_ONE_SAMPLE, JOINT_RULES, Rule
from baal_ray.storage.redaction import has_secret
from baal_ray.storage.uri_rules import as_here

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Similarity = Annotated[float, Field(ge=-1, lt=1)]


def _without_secret(location: str) -> str:
    if has_secret(location):
        raise PydanticCustomError(
            "secret",
            "carries credentials, which would be written to plans and logs; put them in the "
            "environment of the driver and of every node",
        )
    return location


def _absolute(location: str) -> str:
    if "://" in location:
        return location
    if os.path.isabs(location):  # each place has one spelling, by which files are compared
        return "/" + os.path.normpath(location).lstrip("/")
    absolute = os.path.abspath(os.path.expanduser(location))
    raise ValueError(f"it must be absolute, because jobs run elsewhere; write {absolute} or a URI")


def _distinct(classes: list[str]) -> list[str]:
    doubled = sorted({name for name in classes if classes.count(name) > 1})
    if doubled:
        raise ValueError(f"class names must be unique; these are repeated: {', '.join(doubled)}")
    if "" in classes:
        raise ValueError("a class name must not be empty, as an empty label means no label yet")
    return classes


Classes = Annotated[list[str], Field(min_length=2), AfterValidator(_distinct)]
Location = Annotated[
    str, AfterValidator(_without_secret), AfterValidator(as_here), AfterValidator(_absolute)
]


class PoolConfig(Section):
    """The location and format of the unlabelled images."""

    uri: Location
    format: Literal["parquet", "files"] = "parquet"
    roots: list[Location] = Field([])
    integer_ids: bool = False


class ModelConfig(Section):
    """The model to fit: `factory` is called with `num_classes` and `arguments`."""

    factory: str = "small_convnet"
    arguments: dict[str, Any] = Field({})
    weights: Annotated[str, AfterValidator(_without_secret)] | None = None
    output: Literal["logits", "log_probs"] = "logits"
    output_field: str | int | None = None
    image_size: list[Count] = Field([32, 32])
    mean: list[float] = Field([0.485, 0.456, 0.406])
    std: list[Annotated[float, Field(gt=0)]] = Field([0.229, 0.224, 0.225])

    @property
    def prediction_field(self) -> str | int:
        """The field that has the prediction, if the network does not return a tensor."""
        return self.output if self.output_field is None else self.output_field

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return [size, size] if isinstance(size, int) else size

    @model_validator(mode="after")
    def _lengths(self) -> "ModelConfig":
        for name, length in (("image_size", 2), ("mean", 3), ("std", 3)):
            value = getattr(self, name)
            if len(value) != length:
                raise ValueError(f"{name} has {len(value)} numbers; it must have {length}")
        return self


class AugmentationConfig(Section):
    """Random changes to training images. Each is off at 0 or false."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    crop_padding: Annotated[int, Field(ge=0)] = 0
    color_jitter: Fraction = 0.0


class TrainingConfig(Section):
    """The settings for fitting the model on the labelled set."""

    epochs: Annotated[int, Field(ge=0)] = 50
    min_steps: Annotated[int, Field(ge=0)] = 1000
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    class_weights: Literal["balanced"] | None = None
    augmentations: AugmentationConfig = AugmentationConfig()
    evaluation_set: Location | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    evaluation_samples: Count = 10
    max_failures: Annotated[int, Field(ge=0)] = 3


class StageConfig(Section):
    """A further scoring stage, for the most promising share of the pool.

    `samples` is the total number of posterior samples per image.
    """

    samples: Count
    share: Annotated[float, Field(gt=0, lt=1)]


class ScoringConfig(Section):
    """The settings for scoring the pool.

    Changing a setting that affects scores leads to new scores, never to a mixture of old and new.
    """

    samples: Count = 20
    masks: Literal["shared", "per_item"] = "shared"
    stochastic_depth: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: Count | None = 64
    decode_on: Literal["cpu", "gpu"] = "cpu"
    max_pixels: Count = 100_000_000
    further_stages: list[StageConfig] = Field([])
    max_unreadable: Fraction = 0.01

    @model_validator(mode="after")
    def _narrowing(self) -> "ScoringConfig":
        samples, share = self.samples, 1.0
        for number, stage in enumerate(self.further_stages):
            where = f"further_stages.{number}"
            if stage.samples <= samples:
                raise ValueError(
                    f"{where}.samples is {stage.samples}; it must be more than the previous "
                    f"stage's {samples}"
                )
            if stage.share >= share:
                raise ValueError(
                    f"{where}.share is {stage.share:g}; it must be less than the previous "
                    f"stage's {share:g}"
                )
            samples, share = stage.samples, stage.share
        return self

    @property
    def mini_batch(self) -> int:
        """The value of `batch_size`, once it is known."""
        if self.batch_size is None:
            raise ValueError("batch_size is null and has not been determined yet")
        return self.batch_size

    @property
    def last_stage(self) -> "ScoringConfig":
        """The settings of the last stage, from whose scores the acquisition batch is picked."""
        return self.at_stage(len(self.further_stages) - 1) if self.further_stages else self

    def at_stage(self, number: int) -> "ScoringConfig":
        """Return the settings of a further stage (from 0) as if its candidates were the pool."""
        now, *later = self.further_stages[number:]
        narrower = [stage.model_copy(update={"share": stage.share / now.share}) for stage in later]
        return self.model_copy(update={"samples": now.samples, "further_stages": narrower})


class RuleConfig(Section):
    """An acquisition rule and its settings."""

    by: Rule = "power_bald"
    coldness: Annotated[float, Field(gt=0)] = 1.0
    most_alike: Similarity | None = None

    @property
    def joint(self) -> bool:
        """Whether the rule needs the predictions of several images at once."""
        return self.by in JOINT_RULES

    @property
    def narrows(self) -> bool:
        """Whether the batch is chosen among candidates instead of being the top of the ranking."""
        return self.joint or self.most_alike is not None

    @property
    def ranked_by(self) -> Rule:
        """The rule that ranks the pool, BALD for joint rules."""
        return "bald" if self.joint else self.by

    @model_validator(mode="after")
    def _spreads_a_ranking(self) -> Self:
        if self.most_alike is not None and (self.joint or self.by == "random"):
            raise ValueError(
                f"most_alike is {self.most_alike:g}; it must be null when by is {self.by}, "
                "because it spreads picks over the top of a ranking, which this rule does not use"
            )
        return self

    def check(self, scoring: ScoringConfig, where: str) -> None:
        """Refuse scoring settings that do not suit the rule.

        Args:
            scoring: Settings for scoring the pool.
            where: Name of the setting that holds the rule.

        Raises:
            ValueError: If the rule cannot pick by such scores.
        """
        if scoring.samples == 1 and self.by not in FOR_ONE_SAMPLE:
            raise ValueError(
                f"scoring.samples is 1; it must be at least 2 when {where} is {self.by}, "
                "because one sample cannot disagree with itself"
            )
        if self.joint and scoring.masks != "shared":
            raise ValueError(
                f"scoring.masks is {scoring.masks!r}; it must be 'shared' when {where} is "
                f"{self.by}, because joint rules compare predictions of the same posterior samples"
            )


class SelectionConfig(RuleConfig):
    """The settings for picking the images to acquire."""

    k: Count
    candidates: Count | None = None
    targets: PoolConfig | None = None
    target_images: Count = 500
    random_share: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def random_count(self) -> int:
        """The number of the k picks that are a random control; 0 if the rule itself is random."""
        if not self.random_share or self.by == "random":
            return 0
        return min(max(1, round(self.random_share * self.k)), self.k - 1)

    @property
    def candidate_count(self) -> int:
        """The number of candidates, if the pool has that many."""
        return self.candidates or max(1000, 10 * self.k)

    @model_validator(mode="after")
    def _enough(self) -> "SelectionConfig":
        if self.candidates is not None and self.candidates < self.k:
            raise ValueError(
                f"candidates is {self.candidates}; it must be at least k, which is {self.k}"
            )
        if self.random_share and self.k == 1:
            raise ValueError(
                f"random_share is {self.random_share:g}; it must be 0 when k is 1, because a "
                "single pick cannot be both active and its own control"
            )
        return self


class ResourcesConfig(Section):
    """The resources requested from the cluster.

    They affect a round's duration and, by `training_workers`, the model as another seed would.
    """

    training_workers: Annotated[int, Field(ge=0)] = 1
    training_cpus: Annotated[float, Field(gt=0)] = 1
    training_gpus: Annotated[float, Field(ge=0)] = 0
    scoring_actors: Count = 1
    max_scoring_actors: Count | None = None
    scoring_cpus: Annotated[float, Field(gt=0)] = 1
    scoring_gpus: Annotated[float, Field(ge=0)] = 0

    @property
    def most_scoring_actors(self) -> int:
        """The largest number of scoring actors that may run, if there is work for them."""
        return self.max_scoring_actors or self.scoring_actors

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.most_scoring_actors < self.scoring_actors:
            raise ValueError(
                f"max_scoring_actors is {self.max_scoring_actors}; it must be at least "
                f"scoring_actors, which is {self.scoring_actors}, or null"
            )
        return self


class NotifyConfig(Section):
    """The command and the URL to notify when a round ends or fails."""

    command: Annotated[list[str], Field(min_length=1)] | None = None
    url: Annotated[str, Field(pattern="^https?://")] | None = None
