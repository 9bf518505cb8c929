"""A preview of a round: its work and approximate duration, without doing any of it."""

import tempfile
from collections.abc import Iterator

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.pool import list_pool
from baal_ray.scoring.batch_size import with_known_batch_size
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.progress import in_words
from baal_ray.training.evaluation_images import read_evaluation
from baal_ray.training.fit import Fit, find_fit
from baal_ray.training.optimisation import steps_of_fit
from baal_ray.workspace import checkpoint_uri, manifest_uri, scores_uri, stage_uri
from baal_ray.workspace.rounds import read_stage
from baal_ray.workspace.scores import scored_already
from baal_ray.workspace.stage_files import RoundRecord, RoundResult

_STAGES = ("plan", "fit", "scores", "candidates", "batch")


def preview_round(config: RoundConfig, round_id: str) -> list[str]:
    """Describe what `run_round` would fit, score and acquire.

    Ray is not started, and nothing is written.

    Args:
        config: Configuration of the round.
        round_id: Name of the round.

    Returns:
        Lines to show.

    Raises:
        BaalRayError: If the pool, the labels or the manifest would make `run_round` fail.
    """

    def is_done(stage: str) -> bool:
        return storage.exists(stage_uri(config.workspace, round_id, stage))

    if is_done("round"):
        return [f"round {round_id} is already committed: nothing to do"]
    done = list(filter(is_done, _STAGES))
    begun = f"begun before; done: {', '.join(done)}" if done else "new"
    return [f"round    {round_id}, {begun}", *_Preview(config).lines()]


class _Preview:
    """The state of a workspace, and the work that a round has left to do there."""

    def __init__(self, config: RoundConfig) -> None:
        self._config = config
        manifest = Manifest(manifest_uri(config.workspace))
        self._labelled = manifest.labelled()
        # Without a model, the picks are random.
        self._has_model = len(self._labelled) > 0 or not config.training.epochs
        self._fit = find_fit(config, self._labelled) if self._has_model else None
        self._last = _last_round(config.workspace, manifest)
        acquired = IdSet.of(manifest.ids())
        scored = self._scored(self._fit)
        evaluation = read_evaluation(config).ids
        self._images = self._acquired = self._evaluation = self._scored_before = 0
        with tempfile.TemporaryDirectory() as listing_folder:
            listing = list_pool(config.pool, listing_folder)
            self._notes = {"files": listing.note, "reading": listing.large_groups}
            for rows in listing.read_ids():
                taken, withheld = acquired.contains(rows["id"]), evaluation.contains(rows["id"])
                self._images += len(rows)
                self._acquired += int(taken.sum())
                self._evaluation += int((withheld & ~taken).sum())
                taken |= withheld
                self._scored_before += int((scored.contains(rows["id"]) & ~taken).sum())

    def lines(self) -> Iterator[str]:
        selection = self._config.selection
        by, random = selection.by, selection.random_count
        left = self._images - self._acquired - self._evaluation
        withheld = f"; {self._evaluation:,} more are evaluation images" if self._evaluation else ""
        yield (
            f"pool     {self._images:,} images, of which {self._acquired:,} were acquired before"
            f"{withheld}"
        )
        yield from (f"{name:8} {note}" for name, note in self._notes.items() if note)
        if not self._has_model:
            yield "fit      nothing is labelled yet"
            yield "score    nothing: the first acquisition batch is random"
            by, random = "random", 0
        else:
            yield f"fit      {self._fit_line()}"
            yield f"score    {self._score_line()}"
        best = max(0, min(selection.k, left) - random)
        control = f" and {min(random, left):,} at random" if random else ""
        yield f"acquire  {best:,} images by {by}{control}"
        if self._has_model:
            yield f"time     {self._time_line()}"

    @property
    def _to_score(self) -> int:
        return self._images - self._acquired - self._evaluation - self._scored_before

    def _fit_line(self) -> str:
        if not self._config.training.epochs:
            return "not needed: training.epochs is 0, so model.weights are used as they are"
        if self._fit is not None:
            return (
                f"not needed: checkpoint {self._fit.checkpoint[:12]}… was fitted on these labels"
            )
        labels = len(self._labelled)
        steps = steps_of_fit(labels, self._config.training)
        return f"on {labels:,} labels, for about {steps:,} steps"

    def _score_line(self) -> str:
        stages = "".join(
            f", then {stage.samples} of the best {stage.share:.0%}"
            for stage in self._config.scoring.further_stages
        )
        return (
            f"{self._to_score:,} images ({self._scored_before:,} have scores already), "
            f"{self._config.scoring.samples} posterior samples each{stages}"
        )

    def _time_line(self) -> str:
        if self._last is None:
            return "unknown until a first round is finished"
        last, seconds = self._last, self._last.seconds
        fit = 0.0 if self._fit else seconds["fit"] * self._longer_fit(last.labels)
        score = seconds["score"] * self._to_score / max(1, last.scored)
        total = fit + score + seconds.get("candidates", 0) + seconds["select"]
        return (
            f"about {in_words(total)}, judging by round {last.round_id}: "
            f"{in_words(fit)} to fit, {in_words(score)} to score"
        )

    def _longer_fit(self, labels: int) -> float:
        """Return the duration of the fit as a multiple of one on `labels`, by steps."""
        training = self._config.training
        steps = steps_of_fit(len(self._labelled), training)
        return steps / steps_of_fit(max(1, labels), training)

    def _scored(self, fit: Fit | None) -> IdSet:
        """Return the ids that the model of the round has already scored."""
        if fit is None:
            return IdSet.of([])
        config = self._config
        checkpoint = checkpoint_uri(config.workspace, fit.checkpoint)
        job = with_known_batch_size(ScoringJob.of_round(checkpoint, config))
        if job is None:
            return IdSet.of([])
        folder = job.folder(scores_uri(config.workspace))
        return scored_already(folder, delete_damaged=False).ids


def _last_round(workspace: str, manifest: Manifest) -> RoundResult | None:
    """Return the result of the latest finished round that scored images; None if there is none."""
    for round_id in reversed(manifest.rounds()):
        done = read_stage(workspace, round_id, RoundRecord)
        if done is not None and done.result.scored:
            return done.result
    return None
