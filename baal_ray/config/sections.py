"""The sections of a configuration: what there is to set, and to what."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from baal_ray.config.document import Section
from baal_ray.storage.redaction import has_secret

Rule = Literal[
    "bald",
    "predictive_entropy",
    "expected_entropy",
    "variation_ratio",
    "mean_std",
    "margin",
    "confidence",
    "power_bald",
    "softmax_bald",
    "softrank_bald",
    "batch_bald",
    "epig",
    "random",
]
# Rules that do not ask what posterior samples disagree about.
_OF_ONE_SAMPLE_TOO = ("predictive_entropy", "expected_entropy", "margin", "confidence", "random")

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
    if "://" in location or os.path.isabs(location):
        return location
    absolute = os.path.abspath(os.path.expanduser(location))
    raise ValueError(f"it must be absolute, as jobs run elsewhere; write {absolute} or a URI")


def _distinct(classes: list[str]) -> list[str]:
    doubled = sorted({name for name in classes if classes.count(name) > 1})
    if doubled:
        raise ValueError(f"each class must be named once; {', '.join(doubled)} is named again")
    if "" in classes:
        raise ValueError("a class must have a name, as an empty label means none yet")
    return classes


Classes = Annotated[list[str], Field(min_length=2), AfterValidator(_distinct)]
Location = Annotated[str, AfterValidator(_without_secret), AfterValidator(_absolute)]


class PoolConfig(Section):
    """Where the unlabelled images are."""

    uri: Location
    format: Literal["parquet", "files"] = "parquet"
    roots: list[Location] = Field([])


class ModelConfig(Section):
    """What is fitted: `factory` is called with `num_classes` and `arguments`."""

    factory: str = "small_convnet"
    arguments: dict[str, Any] = Field({})
    weights: Annotated[str, AfterValidator(_without_secret)] | None = None
    output: Literal["logits", "log_probs"] = "logits"
    image_size: list[Count] = Field([32, 32])
    mean: list[float] = Field([0.485, 0.456, 0.406])
    std: list[Annotated[float, Field(gt=0)]] = Field([0.229, 0.224, 0.225])

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
    """Random changes to training images; each is off at 0 or false."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    crop_padding: Annotated[int, Field(ge=0)] = 0
    color_jitter: Fraction = 0.0


class TrainingConfig(Section):
    """How the model is fitted on the labelled set."""

    epochs: Count = 50
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    augmentations: AugmentationConfig = AugmentationConfig()
    evaluation_set: Location | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    evaluation_samples: Count = 10
    max_failures: Annotated[int, Field(ge=0)] = 3


class StageConfig(Section):
    """So many posterior samples, in all, for the most promising share of the pool."""

    samples: Count
    share: Annotated[float, Field(gt=0, lt=1)]


class ScoringConfig(Section):
    """How the pool is scored. A change here makes new scores, never a mixture."""

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
                    f"{where}.samples is {stage.samples}; it must be more than the {samples} of "
                    "the stage before"
                )
            if stage.share >= share:
                raise ValueError(
                    f"{where}.share is {stage.share:g}; it must be less than the {share:g} of the "
                    "stage before"
                )
            samples, share = stage.samples, stage.share
        return self

    @property
    def mini_batch(self) -> int:
        """`batch_size`, once it is known."""
        if self.batch_size is None:
            raise ValueError("batch_size is null, and has not been found yet")
        return self.batch_size

    @property
    def last_stage(self) -> "ScoringConfig":
        """The settings that the batch is picked with."""
        return self.at_stage(len(self.further_stages) - 1) if self.further_stages else self

    def at_stage(self, number: int) -> "ScoringConfig":
        """The settings of a further stage, from 0, as if its candidates were the pool."""
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
        return self.by in ("batch_bald", "epig")

    @property
    def narrows(self) -> bool:
        """Whether the batch is chosen among candidates, not simply the best."""
        return self.joint or self.most_alike is not None

    @property
    def ranked_by(self) -> Rule:
        """The rule for scores, which a joint rule's candidates are the best by."""
        return "bald" if self.joint else self.by

    @model_validator(mode="after")
    def _spreads_a_ranking(self) -> Self:
        if self.most_alike is not None and (self.joint or self.by == "random"):
            raise ValueError(
                f"most_alike is {self.most_alike:g}; for by {self.by} it must be null: it spreads "
                "the top of a ranking"
            )
        return self

    def check(self, scoring: ScoringConfig, where: str) -> None:
        """Refuse a way of scoring that the rule cannot pick by.

        Args:
            scoring: of the pool.
            where: the rule is named in the configuration.

        Raises:
            ValueError: it cannot.
        """
        if scoring.samples == 1 and self.by not in _OF_ONE_SAMPLE_TOO:
            raise ValueError(
                f"scoring.samples is 1; for {where} {self.by} it must be 2 or more, as one sample "
                "agrees with itself about every image"
            )
        if self.joint and scoring.masks != "shared":
            raise ValueError(
                f"scoring.masks is {scoring.masks!r}; for {where} {self.by} it must be 'shared': "
                "what labels tell together is told of the same networks"
            )
        if self.by == "softrank_bald" and scoring.further_stages:
            raise ValueError(
                f"{where} is 'softrank_bald', which draws by an image's rank in the whole pool; "
                "it must be another rule, such as power_bald, with scoring.further_stages"
            )


class SelectionConfig(RuleConfig):
    """Which images are acquired."""

    k: Count
    candidates: Count | None = None
    targets: PoolConfig | None = None
    target_images: Count = 500
    random_share: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def random_count(self) -> int:
        """How many of the k are a control; where the rule is random, none need be."""
        if not self.random_share or self.by == "random":
            return 0
        return min(max(1, round(self.random_share * self.k)), self.k - 1)

    @property
    def candidate_count(self) -> int:
        """How many candidates there are then, if the pool has so many."""
        return self.candidates or max(1000, 10 * self.k)

    @model_validator(mode="after")
    def _enough(self) -> "SelectionConfig":
        if self.candidates is not None and self.candidates < self.k:
            raise ValueError(
                f"candidates is {self.candidates}; it must be at least k, which is {self.k}"
            )
        if self.random_share and self.k == 1:
            raise ValueError(
                f"random_share is {self.random_share:g}; it must be 0 where k is 1, as a single "
                "pick cannot be both active and its control"
            )
        return self


class ResourcesConfig(Section):
    """What is asked of the cluster: how long a round takes, not what comes out of it."""

    training_workers: Annotated[int, Field(ge=0)] = 1
    training_cpus: Annotated[float, Field(gt=0)] = 1
    training_gpus: Annotated[float, Field(ge=0)] = 0
    scoring_actors: Count = 1
    max_scoring_actors: Count | None = None
    scoring_cpus: Annotated[float, Field(gt=0)] = 1
    scoring_gpus: Annotated[float, Field(ge=0)] = 0

    @property
    def most_scoring_actors(self) -> int:
        """How many actors there may be, once there is work for them."""
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
    """Who is told when a round has ended or failed."""

    command: Annotated[list[str], Field(min_length=1)] | None = None
    url: Annotated[str, Field(pattern="^https?://")] | None = None
