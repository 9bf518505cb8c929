"""The facts about a finished round in its workspace, gathered for its report."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isnan, nan

import pyarrow as pa

from baal_ray.config import RoundConfig
from baal_ray.errors import ConfigError
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.pool import PoolListing
from baal_ray.report.comparison import Comparison, compare_picks
from baal_ray.report.intervals import Interval, newcombe, wilson
from baal_ray.report.score_summary import ScoreSummary, summarize_scores
from baal_ray.score_names import SCORE_COLUMNS, column_of
from baal_ray.storage.files import REQUESTS_AT_A_TIME
from baal_ray.workspace import batch_uri, manifest_uri
from baal_ray.workspace.batches import batch_files, read_batch
from baal_ray.workspace.rounds import FinishedRound, check_round, read_finished, read_stage
from baal_ray.workspace.scores import score_files
from baal_ray.workspace.stage_files import Plan, RoundRecord, RoundResult

# Most rounds on a learning curve; the latest are shown.
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class PastRound:
    """A finished round on the learning curve.

    Attributes:
        round_id: Name of the round.
        result: Result in its `round.json`.
        evaluation_set: URI of the images it was evaluated on; None for a share of the labelled
            images.
    """

    round_id: str
    result: RoundResult
    evaluation_set: str | None

    def metric(self, name: str) -> float:
        """Return a metric by its name; NaN if there is none."""
        return float(self.result.metrics.get(name, nan))

    def correct(self) -> tuple[float, float] | None:
        """Return the number of images it was right about, and of all images; None if unknown."""
        accuracy, images = self.metric("accuracy"), self.metric("images")
        return (round(accuracy * images), images) if images > 0 and not isnan(accuracy) else None

    def interval(self) -> Interval:
        """Return Wilson's 95 % interval of its accuracy; NaN if the images are not known."""
        correct = self.correct()
        return wilson(*correct) if correct else (nan, nan)

    def fell_below(self, earlier: "PastRound") -> bool:
        """Return whether chance does not explain that its accuracy is below an earlier one's.

        The whole interval of the difference lies below 0 then. Rounds keep how many images they
        were right about, not which. So the interval is Newcombe's for different images, which is
        too wide if the images are the same, and errs on the side of silence.
        """
        now, before = self.correct(), earlier.correct()
        return now is not None and before is not None and newcombe(*now, *before)[1] < 0


@dataclass(frozen=True)
class RoundFacts:
    """The facts about a finished round.

    Attributes:
        config: Configuration, as planned.
        record: Content of its `round.json`.
        pool: The pool that it picked from.
        manifest_version: Version of the manifest that it began at; -1 if there was no manifest.
        evaluation_ids: Number of images in the pool whose ids are in the evaluation set.
        batch: Picks in order of rank, without images.
        batch_files: Files with the images of the picks.
        labels: Labels by id, for the picks that are labelled by now.
        compared: Counts of labelled picks that the model was wrong about, active and random ones.
        rejected: Number of picks that annotators rejected as unusable.
        scores: Scores of the pool; None for a random round, and if they were pruned.
        last_scores: Scores of the stage that the batch was picked in; `scores` if there was only
            one.
        rounds: Finished rounds up to this one, in order.
    """

    config: RoundConfig
    record: RoundRecord
    pool: PoolListing
    manifest_version: int
    evaluation_ids: int
    batch: pa.Table
    batch_files: list[str]
    labels: dict[str, str]
    compared: Comparison
    rejected: int
    scores: ScoreSummary | None
    last_scores: ScoreSummary | None
    rounds: list[PastRound]

    @property
    def result(self) -> RoundResult:
        """The result of the round."""
        return self.record.result

    @property
    def round_id(self) -> str:
        """The name of the round."""
        return self.result.round_id

    def predicted(self, image_id: str) -> tuple[str, float] | None:
        """Return the class predicted for a pick and its probability; None if they are unknown."""
        row = self.last_scores.picks.get(image_id) if self.last_scores else None
        if row is None or row["predicted"] is None:
            return None
        return self.config.classes[row["predicted"]], row["confidence"]

    def active(self) -> list[str]:
        """Return the ids of the picks by the round's rule, without its random control."""
        rules = zip(self.batch["id"].to_pylist(), self.batch["rule"].to_pylist(), strict=True)
        return [image_id for image_id, rule in rules if rule == self.result.rule]


def gather(workspace: str, round_id: str) -> RoundFacts:
    """Read the facts about a finished round.

    Raises:
        ConfigError: If there is no such round, or if it is not finished.
        StorageError: If a file in its folder cannot be read.
    """
    finished = _finished(workspace, round_id)
    plan, record = finished.plan, finished.record
    manifest = Manifest(manifest_uri(workspace))
    files = batch_files(batch_uri(workspace, round_id))
    batch = read_batch(files)
    rows = manifest.rows(round_id=round_id)
    scores, last_scores = _summaries(record, plan.config, batch)
    return RoundFacts(
        plan.config,
        record,
        PoolListing.of(plan.pool),
        plan.manifest_version,
        plan.evaluation_images,
        batch,
        files,
        {row["id"]: row["label"] for row in rows.to_pylist() if row["label"] is not None},
        compare_picks(workspace, rows).get(round_id, Comparison()),
        rows["status"].to_pylist().count("rejected"),
        scores,
        last_scores,
        _rounds_until(workspace, manifest, round_id),
    )


def files_of_scores(workspace: str, round_id: str) -> int:
    """Return the number of score files that a report of the round would read."""
    folders = _finished(workspace, round_id).record.folders
    return sum(len(score_files(folder)) for folder in folders)


def _finished(workspace: str, round_id: str) -> FinishedRound:
    finished = read_finished(workspace, round_id)
    if finished is None:
        check_round(workspace, round_id)
        wanted = "a report needs a finished round"
        if read_stage(workspace, round_id, Plan) is None:
            raise ConfigError("round", [f"{round_id!r} is an imported labelled set; {wanted}"])
        raise ConfigError("round", [f"{round_id!r} is not finished; {wanted}: run it again"])
    return finished


def _summaries(
    record: RoundRecord, config: RoundConfig, batch: pa.Table
) -> tuple[ScoreSummary | None, ScoreSummary | None]:
    column, picks = shown_column(config), IdSet.of(batch["id"])
    found = [
        summarize_scores(folder, column, len(config.classes), picks)
        for folder in record.folders
        if score_files(folder)
    ]
    return (found[0], found[-1]) if found else (None, None)


def shown_column(config: RoundConfig) -> str:
    """Return the score column that the round's rule ranks by; BALD if it ranks by none."""
    by = config.selection.ranked_by
    return column_of(by) or SCORE_COLUMNS[0]


def _rounds_until(workspace: str, manifest: Manifest, round_id: str) -> list[PastRound]:
    names = manifest.rounds()
    names = names[: names.index(round_id)] if round_id in names else names
    latest = [*names[-_MOST_ROUNDS + 1 :], round_id]
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        read = threads.map(lambda name: _past_round(workspace, name), latest)
        return [past for past in read if past is not None]


def _past_round(workspace: str, round_id: str) -> PastRound | None:
    """Read a round; None for an imported labelled set and for a round that is not finished."""
    finished = read_finished(workspace, round_id)
    if finished is None:
        return None
    evaluation_set = finished.plan.config.training.evaluation_set
    return PastRound(round_id, finished.record.result, evaluation_set)
