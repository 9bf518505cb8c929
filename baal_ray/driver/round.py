"""One acquisition round: plan, fit, score, select, commit.

Each stage leaves its result in the round's folder before the next one begins, and is not run again
if its result is there. So a round that was killed continues where it stopped, and a finished round
does nothing.

A result names files, which whoever reads them checks. If one is missing or damaged, the stages run
again, and each makes only what is missing.
"""

import logging
from functools import cached_property, partial

import pyarrow as pa
import ray

import baal_ray
from baal_ray import storage
from baal_ray.cluster import check_resources, check_workspace
from baal_ray.config import RoundConfig
from baal_ray.connection import connect
from baal_ray.driver.commit import Commit, restored
from baal_ray.driver.notification import notify, notifying_of_failure
from baal_ray.driver.plan import follow_plan, is_listed_alike
from baal_ray.driver.recovery import Recovery
from baal_ray.driver.termination import exiting_on_sigterm
from baal_ray.errors import UnreadableImagesError
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.pool import PoolListing, is_exhausted, read_pool
from baal_ray.report.automatic_pages import report_round
from baal_ray.scoring.batch_size import with_batch_size
from baal_ray.scoring.job import ScoringJob, decoder_version
from baal_ray.scoring.progress import reporting_progress
from baal_ray.scoring.stage import ScoreFolder
from baal_ray.selection.batch import Picker, pick_batch
from baal_ray.selection.batch_restoration import restore_batch, restore_batches
from baal_ray.selection.further_stages import score_candidates
from baal_ray.storage.lock import exclusive
from baal_ray.storage.parquet import open_parquet, publish_table
from baal_ray.training.evaluation_images import EvaluationImages, read_evaluation
from baal_ray.training.fit import fit_model
from baal_ray.workspace import batch_uri, checkpoint_uri, manifest_uri, round_uri, scores_uri
from baal_ray.workspace.rounds import StageResults
from baal_ray.workspace.scores import most_frequent_error
from baal_ray.workspace.stage_files import (
    BatchResult,
    CandidatesResult,
    FitResult,
    Plan,
    RoundRecord,
    RoundResult,
    ScoresResult,
    StageResult,
)

logger = logging.getLogger(__name__)


def run_round(config: RoundConfig, round_id: str) -> RoundResult:
    """Run a round, or what is left of it.

    Args:
        config: Configuration of the round. It must agree with the round's plan, if there is one.
        round_id: Name of the round in the workspace, such as 2026-11-22.

    Returns:
        The result of the round. A round that was finished before has the same result again.

    Raises:
        PlanMismatchError: If the round was planned with another configuration.
        BaalRayError: If anything else that `baal_ray.errors` lists goes wrong. The round can be
            run again once that is corrected.
    """
    with notifying_of_failure(config.notify, round_id):
        result = _Round(config, round_id).run()
    outcome = "nothing to do" if result.committed_before else "committed"
    notify(config.notify, round_id, outcome, result.summary())
    return result


class _Round:
    """The stages of a round, which leave their results in its folder."""

    def __init__(self, config: RoundConfig, round_id: str) -> None:
        self._config = config
        self._round_id = round_id
        self._folder = round_uri(config.workspace, round_id)
        self._manifest = Manifest(manifest_uri(config.workspace))
        self._results = StageResults(config.workspace, round_id)
        self._recovery = Recovery(
            config.workspace, round_id, self._restore_batches, self._list_again
        )

    def run(self) -> RoundResult:
        """Run the stages in their order, and return the result of the round."""
        with exclusive(self._folder):
            finished = self._recovery.run(self._finished)
            if finished is not None:
                return finished
            connect()
            with exiting_on_sigterm(self._where):
                check_resources(self._config.resources)
                check_workspace(self._config.workspace)
                result = self._recovery.run(self._run)
            report_round(self._config.workspace, self._round_id)
            self._manifest.compact()
            return result

    def _run(self) -> RoundResult:
        decoder_version(self._config.scoring)  # raises if the decoder is not installed
        plan = follow_plan(self._config, self._round_id, self._results, self._evaluation.ids)
        fit = self._results.once(FitResult, lambda: self._fit(plan))
        scores = self._results.once(ScoresResult, lambda: self._score(plan, fit))
        commit = Commit(self._config.workspace, self._round_id, self._results)
        attempt, batch = commit.acquire(
            lambda number: self._batch(plan, fit, scores, number), self._restored
        )
        commit.delete_strays(batch)
        # A batch that was restored has none of its own.
        tried = (self._results.read(CandidatesResult, n) for n in range(attempt, 0, -1))
        candidates = next(filter(None, tried), None)
        return self._finish(plan, fit, scores, candidates, batch)

    def _finished(self) -> RoundResult | None:
        finished = self._results.read(RoundRecord)
        if finished is None:
            return None
        logger.info("round %s is already committed: nothing to do", self._round_id)
        return finished.result.model_copy(update={"committed_before": True})

    def _restore_batches(self) -> None:
        restore_batches(self._config, self._listing(), self._manifest)

    def _list_again(self) -> bool:
        plan = self._results.read(Plan)
        return plan is not None and is_listed_alike(plan, self._config, self._round_id)

    def _restored(self, rows: pa.Table) -> BatchResult:
        """Return this round's batch, with lost images made again from its rows in the manifest."""
        files = restore_batch(self._config, self._listing(), rows, self._round_id)
        return restored(rows, [storage.name(file) for file in files])

    def _listing(self) -> PoolListing:
        plan = self._results.read(Plan)
        assert plan is not None  # the stage that lost a file follows it
        return PoolListing.of(plan.pool)

    def _where(self) -> str:
        return (
            f"Stopped: round {self._round_id} has not finished its stage "
            f"{self._results.running!r}. Run it again, and it continues from there."
        )

    def _fit(self, plan: Plan) -> FitResult:
        labelled = self._manifest.at(plan.manifest_version).labelled()
        if self._config.training.epochs and not len(labelled):
            logger.warning("nothing is labelled yet: the first acquisition batch is random")
            return FitResult(checkpoint=None, labels=0, metrics={})
        fit = fit_model(self._config, labelled)
        if fit.reused:
            logger.warning(
                "no new labels since checkpoint %s was fitted: it is reused", fit.checkpoint
            )
        return FitResult(
            checkpoint=fit.checkpoint,
            labels=fit.labels,
            metrics=fit.metrics,
            by_class=fit.by_class,
            reused=fit.reused,
        )

    def _job(self, fit: FitResult) -> ScoringJob | None:
        """Return the job that scores with the round's model; None if there is no model."""
        if fit.checkpoint is None:
            return None
        checkpoint = checkpoint_uri(self._config.workspace, fit.checkpoint)
        job = ScoringJob.of_round(checkpoint, self._config)
        return with_batch_size(job, scores_uri(self._config.workspace))

    def _score(self, plan: Plan, fit: FitResult) -> ScoresResult:
        job = self._job(fit)
        if job is None:
            return ScoresResult(scores=None, scored=0, unreadable=0)
        config = self._config
        folder = ScoreFolder(job, scores_uri(config.workspace))
        listing, leave_out = PoolListing.of(plan.pool), self._left_out() | folder.scored
        done_before = len(self._acquired() | folder.scored) + plan.evaluation_images
        with reporting_progress(folder.uri, max(0, listing.rows - done_before)):
            exhausted = is_exhausted(listing, leave_out)
            pool = None
            if not exhausted:
                images = self._evaluation.images
                pool = read_pool(listing, leave_out=leave_out, evaluation=images)
            done = folder.add(pool, keep_by=config.selection.ranked_by)
        allowed = config.scoring.max_unreadable
        if done.unreadable > allowed * done.rows:
            raise UnreadableImagesError(
                f"{done.unreadable} of {done.rows} images are unreadable; scoring.max_unreadable "
                f"allows {allowed:.2%}. The most frequent reason is: "
                f"{most_frequent_error(folder.uri)}. The column `error` in {folder.uri} gives the "
                "reason for each image. Correct that or allow more, and run this round again: it "
                "tries these images again, and scores no other image twice"
            )
        # Without any, every image was acquired before there was a model to score it.
        scores = folder.uri if done.rows else None
        return ScoresResult(
            scores=scores,
            files=done.files,
            scored=done.scored,
            unreadable=done.unreadable,
            evaluation_images=done.evaluation_images,
        )

    def _batch(
        self,
        plan: Plan,
        fit: FitResult,
        scores: ScoresResult,
        attempt: int,
    ) -> BatchResult:
        """Run the further stages of scoring, then pick. Random picks need no further stages."""
        candidates = None
        staged = self._config.scoring.further_stages and self._config.selection.by != "random"
        if staged and scores.scores is not None:
            run = partial(self._score_candidates, plan, fit, scores)
            candidates = self._results.once(CandidatesResult, run, attempt)
        return self._results.once(
            BatchResult, lambda: self._pick(plan, fit, scores, candidates), attempt
        )

    def _score_candidates(
        self, plan: Plan, fit: FitResult, scores: ScoresResult
    ) -> CandidatesResult:
        job, folder = self._job(fit), scores.scores
        assert job is not None
        assert folder is not None
        config = self._config.model_copy(update={"scoring": job.config})
        listing, leave_out = PoolListing.of(plan.pool), self._left_out()
        stages = list(
            score_candidates(config, listing, job, scores.uris, leave_out, plan.draw_seed)
        )
        last = stages[-1]
        found = len(last.candidates) > 0
        return CandidatesResult(
            scores=last.uri if found else folder,
            files=[storage.name(file) for file in last.files] if found else scores.files,
            ids=publish_table(storage.join(self._folder, "candidates"), last.candidates),
            stages=[stage.figures for stage in stages],
        )

    def _pick(
        self,
        plan: Plan,
        fit: FitResult,
        scores: ScoresResult,
        candidates: CandidatesResult | None,
    ) -> BatchResult:
        only = None
        if candidates is not None:
            with open_parquet(candidates.ids, verified=True) as ids:
                only = IdSet.of(ids.read()["id"])
        job = self._job(fit)
        config = self._config.model_copy(update={"scoring": job.config}) if job else self._config
        picker = Picker(
            config=config,
            listing=PoolListing.of(plan.pool),
            model=fit.checkpoint,
            scores=scores.uris,
            last_scores=candidates.uris if candidates else scores.uris,
            candidates=only,
            draw_seed=plan.draw_seed,
            evaluation=self._evaluation.images,
            targets=PoolListing.of(plan.targets) if plan.targets else None,
        )
        folder = batch_uri(self._config.workspace, self._round_id)
        return pick_batch(picker, folder, self._left_out())

    def _finish(
        self,
        plan: Plan,
        fit: FitResult,
        scores: ScoresResult,
        candidates: CandidatesResult | None,
        batch: BatchResult,
    ) -> RoundResult:
        stages: dict[str, StageResult] = {"fit": fit, "score": scores, "select": batch}
        if candidates is not None:
            stages["candidates"] = candidates
        result = RoundResult(
            round_id=self._round_id,
            acquired=batch.acquired,
            checkpoint=fit.checkpoint,
            rule=batch.rule,
            scored=scores.scored,
            unreadable=scores.unreadable,
            labels=fit.labels,
            metrics=fit.metrics,
            by_class=fit.by_class,
            seconds={name: stage.seconds for name, stage in stages.items()},
            further_stages=candidates.stages if candidates else [],
            stability=batch.stability.mean if batch.stability else None,
            random=batch.random,
            evaluation_images=plan.evaluation_images
            + scores.evaluation_images
            + batch.evaluation_images,
        )
        record = RoundRecord(
            result=result,
            scores=scores.scores,
            candidates=candidates,
            stability=batch.stability,
            versions={"baal_ray": baal_ray.__version__, "ray": ray.__version__},
        )
        theirs = self._results.create(record) is not record
        finished = self._finished() if theirs else None
        return finished or result

    @cached_property
    def _evaluation(self) -> EvaluationImages:
        return read_evaluation(self._config)

    def _acquired(self) -> IdSet:
        return IdSet.of(self._manifest.ids())

    def _left_out(self) -> IdSet:
        """Return the ids that must not be picked."""
        return self._acquired() | self._evaluation.ids
