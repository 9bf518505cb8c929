"""The files in the folder of a round: its plan, a result for each stage, and its record.

plan.json → fit.json → scores.json → (candidates.json) → batch.json → round.json
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from baal_ray.config import RoundConfig
from baal_ray.storage.other_files import OtherFiles
from baal_ray.storage.table_files import TableFile
from baal_ray.workspace.records import ClassCounts, FileName, Record, Sha256, Task


class _Part(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class PoolFile(TableFile):
    """A Parquet file of the pool.

    Attributes:
        row_groups: The number of rows of each of its row groups.
        footer: The sha256 of its footer.
    """

    row_groups: list[int]
    footer: str

    @property
    def images(self) -> int:
        """The number of images in it."""
        return sum(self.row_groups) - (self.deleted.count if self.deleted else 0)


class ListedPool(_Part):
    """The content of the pool when the round was planned.

    Attributes:
        files: Parquet files, in the order of their names.
        column: "image" if they hold encoded bytes, "uri" if they hold the locations of the bytes.
        root: The location at which relative URIs begin.
        images_are_files: Whether the pool is a folder of image files, each its own `source`.
        roots: Further locations where images may lie.
        other_files: The files below `root` that are not part of the pool.
        table_version: The version of the Delta table; None for other pools.
    """

    files: list[PoolFile]
    column: Literal["image", "uri"]
    root: str
    images_are_files: bool
    roots: list[str] = []
    other_files: OtherFiles = OtherFiles()
    table_version: int | None = None

    @property
    def rows(self) -> int:
        """The number of images, N."""
        return sum(file.images for file in self.files)


class StageFile(Record):
    """A file in the folder of a round.

    Attributes:
        STAGE: The name of the stage, and of the file without its extension.
    """

    STAGE: ClassVar[str]


class Plan(StageFile):
    """`plan.json`: everything that decides a round's result, fixed before its first stage.

    Attributes:
        task: The task that the model is fitted for.
        config: The configuration; settings that do not change the result have their defaults.
        draw_seed: The seed of the round's draws, `seed` in the file.
        pool: The pool as it was listed.
        targets: The images for which "epig" improves predictions; None for the pool.
        manifest_version: The version of the manifest that the round began at; -1 if there was no
            manifest.
        evaluation_images: The number of images of the pool whose ids are in the evaluation set.
        baal_ray: The version of this package.
    """

    STAGE = "plan"

    task: Task = "classification"
    config: RoundConfig
    draw_seed: int = Field(alias="seed")
    pool: ListedPool
    targets: ListedPool | None = None
    manifest_version: int
    evaluation_images: int = 0
    baal_ray: str

    @field_validator("config", mode="before")
    @classmethod
    def _complete(cls, config: Any, info: ValidationInfo) -> Any:
        if isinstance(config, RoundConfig):
            return config
        return RoundConfig.from_dict(config, (info.context or {}).get("uri", "plan"))

    @field_serializer("config")
    def _planned(self, config: RoundConfig) -> dict[str, Any]:
        return config.planned()


class StageResult(StageFile):
    """The result of a stage.

    Attributes:
        seconds: The duration of the run that gave the result.
    """

    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the result names all its files. One of an earlier version may not."""
        return True

    def figures(self) -> Iterator[str]:
        """Yield the figures that the log shows."""
        yield from ()

    def _rate(self, images: int) -> Iterator[str]:
        if images and self.seconds:
            yield f"{images / self.seconds:,.1f} images per second"


class FitResult(StageResult):
    """`fit.json`: the model of the round.

    Attributes:
        checkpoint: The sha256 that names the model; None if nothing was labelled yet.
        labels: The number of labelled images it was fitted on; 0 if it was given.
        metrics: The metrics of its last epoch on the evaluation set, by name.
        by_class: The counts of each class in the same evaluation; None if there is no model.
        reused: Whether an earlier round had fitted it.
    """

    STAGE = "fit"

    checkpoint: Sha256 | None
    labels: int
    metrics: dict[str, float]
    by_class: ClassCounts | None = None
    reused: bool = False

    def figures(self) -> Iterator[str]:
        """Yield the number of labels and the metrics, as text."""
        if self.labels:
            yield f"{self.labels:,} labels"
        yield from (f"{name} {value:.4g}" for name, value in self.metrics.items())


class _ScoreFiles(StageResult):
    """A stage that leaves scores in a folder.

    Attributes:
        scores: The folder of the scores; None if no image has one.
        files: The names of its files that hold them; None in rounds of earlier versions.
    """

    scores: str | None
    files: list[FileName] | None = None

    @property
    def complete(self) -> bool:
        """Whether the result names all its files."""
        return self.scores is None or self.files is not None

    @property
    def uris(self) -> list[str]:
        """The files of the scores."""
        return [f"{self.scores}/{name}" for name in self.files or ()]


class ScoresResult(_ScoreFiles):
    """`scores.json`: the scores of the pool.

    Attributes:
        scored: The number of images that this round scored.
        unreadable: The number of images that could not be read.
        evaluation_images: The number of images that have the bytes of an evaluation image and are
            not scored because of that. Those left out by their ids do not count.
    """

    STAGE = "scores"

    scored: int
    unreadable: int
    evaluation_images: int = 0

    def figures(self) -> Iterator[str]:
        """Yield the number of images and their rate."""
        yield f"{self.scored:,} scored"
        if self.unreadable:
            yield f"{self.unreadable:,} unreadable"
        yield from self._rate(self.scored)


class FurtherStage(_Part):
    """The figures of one further stage of scoring.

    Attributes:
        samples: The total number of posterior samples, K.
        images: The number of the stage's candidates.
        scored: The number of candidates that this round scored.
        kept: The number of candidates whose first samples were kept from the stage before.
    """

    samples: int
    images: int
    scored: int
    kept: int


class CandidatesResult(_ScoreFiles):
    """`candidates.json`: the most promising images, scored with more samples.

    Attributes:
        scores: The folder of the last stage's scores.
        ids: The Parquet file of the last stage's candidates, most promising first.
        stages: The further stages of scoring, in their order.
    """

    STAGE = "candidates"

    scores: str
    ids: str
    stages: list[FurtherStage]

    def figures(self) -> Iterator[str]:
        """Yield the rate over all stages."""
        yield from self._rate(sum(stage.scored for stage in self.stages))


class Stability(_Part):
    """The estimated share of the picks, 0 to 1, that K other samples would pick as well.

    Attributes:
        without: The estimate from each fifth of the samples, by leaving it out.
        mean: The mean of these estimates.
    """

    without: list[float]
    mean: float


class BatchResult(StageResult):
    """`batch.json`: the acquisition batch.

    Attributes:
        acquired: The number of picks.
        random: The number of picks that were drawn at random.
        rule: The rule that ranked the other picks.
        stability: The stability of the picks; None unless they are ranked by BALD alone.
        files: The names of the files in `batch/` that hold the picks.
        evaluation_images: The number of picks that had the bytes of an evaluation image and were
            replaced.
    """

    STAGE = "batch"

    acquired: int
    random: int
    rule: str
    stability: Stability | None
    files: list[FileName]
    evaluation_images: int = 0

    def figures(self) -> Iterator[str]:
        """Yield the number of picks."""
        yield f"{self.acquired:,} acquired"


class RoundResult(_Part):
    """The result of a round.

    Attributes:
        round_id: The name of the round.
        acquired: The number of images it added to the manifest.
        committed_before: Whether the round was finished before, so that nothing was done now.
        checkpoint: The sha256 of the model it scored with; None if its picks were random.
        rule: The rule that ranked the picks, except the random ones.
        scored: The number of images it scored; the others had scores from an earlier round.
        labels: The number of labelled images that the model was fitted on.
        unreadable: The number of images of the pool that cannot be read.
        metrics: The metrics of the fit's last epoch on the evaluation set, by name.
        by_class: The counts of each class in the same evaluation, in the order of the classes;
            None if there is no model. Recall is `correct` / `images`, precision `correct` /
            `predicted`.
        seconds: The duration of each stage, by name.
        further_stages: The further stages of scoring, in their order.
        stability: The estimated share of the picks, 0 to 1, that K other posterior samples would
            pick as well; None unless a rule by BALD alone chose them.
        random: The number of picks that were drawn at random.
        evaluation_images: The number of images of the pool that could not be picked because they
            are evaluation images, by their ids or, as far as images were read, by their bytes.
    """

    round_id: str
    acquired: int
    committed_before: bool = Field(default=False, exclude=True)
    checkpoint: Sha256 | None
    rule: str
    scored: int
    labels: int
    unreadable: int
    metrics: dict[str, float]
    by_class: ClassCounts | None = None
    seconds: dict[str, float]
    further_stages: list[FurtherStage] = []
    stability: float | None = None
    random: int = 0
    evaluation_images: int = 0

    def summary(self) -> str:
        """Return the result in one line."""
        if self.committed_before:
            return f"round {self.round_id} is already committed: nothing to do"
        accuracy = (
            f", accuracy {self.metrics['accuracy']:.3f}" if "accuracy" in self.metrics else ""
        )
        candidates = "".join(
            f"; {stage.samples} samples for the best {stage.images}"
            for stage in self.further_stages
        )
        stability = (
            f"; other samples would pick about {self.stability:.0%} of these images"
            if self.stability is not None
            else ""
        )
        return (
            f"round {self.round_id}: {self._model()}{accuracy}; {self.scored} images scored, "
            f"{self.unreadable} unreadable{candidates}{self._left_out()}; "
            f"{self._picks()}{stability}"
        )

    def _left_out(self) -> str:
        if not self.evaluation_images:
            return ""
        return f"; {self.evaluation_images} left out because they are evaluation images"

    def _model(self) -> str:
        if self.checkpoint is None:
            return "nothing labelled yet"
        if not self.labels:
            return "model.weights without a fit"
        return f"fitted on {self.labels} labels"

    def _picks(self) -> str:
        if not self.acquired:
            return "nothing to acquire: the pool has no image left to pick"
        if self.rule == "random" or not self.random:
            return f"{self.acquired} acquired by {self.rule}"
        return f"{self.acquired - self.random} acquired by {self.rule} and {self.random} at random"


class RoundRecord(StageFile):
    """`round.json`, written last. A round without it is unfinished.

    Attributes:
        result: The result of the round.
        scores: The folder of the pool's scores; None if its picks were random.
        candidates: The result of the further stages of scoring, if there were any.
        stability: The stability of the picks; None unless they are ranked by BALD alone.
        versions: The versions of the libraries that matter, by name.
    """

    STAGE = "round"

    result: RoundResult
    scores: str | None
    candidates: CandidatesResult | None
    stability: Stability | None
    versions: dict[str, str]

    @property
    def folders(self) -> list[str]:
        """The folder of the pool's scores, then that of the stage the batch was picked in."""
        last = self.candidates.scores if self.candidates else None
        return list(dict.fromkeys(uri for uri in (self.scores, last) if uri))
