"""One acquisition round: plan, fit, score, select, commit.

Each stage leaves its result in the round's folder before the next begins, and is not run again
when its result is there. So a round that was killed goes on where it stood, and one that is
finished does nothing.
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import count, takewhile

import ray

import baal_ray
from baal_ray import storage
from baal_ray.cluster import check_resources, check_workspace, connect
from baal_ray.config import RoundConfig, differences
from baal_ray.driver.notification import notify, told_if_it_fails
from baal_ray.driver.result import RoundResult
from baal_ray.driver.termination import ending_at_once
from baal_ray.errors import (
    AlreadyAcquiredError,
    ManifestError,
    PlanMismatchError,
    StorageError,
    UnreadableImagesError,
)
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.model import check_model
from baal_ray.pool import PoolListing, check_ids, list_pool, read_pool
from baal_ray.report.automatic import report_round
from baal_ray.scoring.batch_size import with_batch_size
from baal_ray.scoring.fingerprint import decoder_version, fingerprint_uri
from baal_ray.scoring.progress import telling_progress
from baal_ray.scoring.stage import score_images
from baal_ray.selection.batch import Ranking, pick_batch
from baal_ray.selection.further_stages import score_candidates
from baal_ray.selection.predictions import check_candidates
from baal_ray.storage.lock import alone
from baal_ray.storage.parquet import open_parquet, publish_table
from baal_ray.training.fit import fit_model
from baal_ray.workspace import batch_uri, checkpoint_uri, manifest_uri, round_uri, scores_uri
from baal_ray.workspace.batches import read_batch
from baal_ray.workspace.rounds import Result, StageResults
from baal_ray.workspace.scores import scored_already

logger = logging.getLogger(__name__)


def run_round(config: RoundConfig, round_id: str) -> RoundResult:
    """Run a round, or what is left of it.

    Args:
        config: what to do; it must agree with the round's plan when there is one.
        round_id: names the round in the workspace, such as 2026-11-22.

    Returns:
        What it came to; the same again when it was finished before.

    Raises:
        PlanMismatchError: the round was planned with another configuration.
        BaalRayError: as `baal_ray.errors` lists them; the round can be run again once it is
            mended.
    """
    with told_if_it_fails(config.notify, round_id):
        result = _Round(config, round_id).run()
    outcome = "nothing to do" if result.committed_before else "committed"
    notify(config.notify, round_id, outcome, result.summary())
    return result


class _Round:
    """A round's folder, and the stages that fill it."""

    def __init__(self, config: RoundConfig, round_id: str) -> None:
        self._config = config
        self._round_id = round_id
        self._folder = round_uri(config.workspace, round_id)
        self._manifest = Manifest(manifest_uri(config.workspace))
        self._results = StageResults(config.workspace, round_id)

    def run(self) -> RoundResult:
        """The stages in their order."""
        with alone(self._folder):
            finished = self._finished()
            if finished is not None:
                return finished
            connect()
            with ending_at_once(self._where):
                check_resources(self._config.resources)
                check_workspace(self._config.workspace)
                result = self._run()
            report_round(self._config.workspace, self._round_id)
            return result

    def _run(self) -> RoundResult:
        plan = self._plan()
        fit = self._results.once("fit", lambda: self._fit(plan))
        self._fix_batch_size(fit)
        scores = self._results.once("scores", lambda: self._score(plan, fit))
        return self._finish(fit, scores, *self._acquire(plan, fit, scores))

    def _finished(self) -> RoundResult | None:
        finished = self._results.read("round")
        if finished is None:
            return None
        logger.info("round %s is committed already: nothing to do", self._round_id)
        return RoundResult(**finished["result"], committed_before=True)

    def _where(self) -> str:
        return (
            f"Stopped: round {self._round_id} has not finished its stage "
            f"{self._results.running!r}. Run it again, and it goes on from there."
        )

    def _plan(self) -> Result:
        """What the round does, fixed by whoever comes first."""
        decoder_version(self._config.scoring)  # raises if it is not installed
        plan = self._results.read("plan")
        if plan is None:
            plan = self._results.create("plan", self._new_plan())
            faults = list(self._differences(plan))
        else:
            faults = [*self._differences(plan), *self._changes(plan)]
        if faults:
            raise PlanMismatchError(
                f"round {self._round_id} was planned otherwise; go back to that, or name another "
                "round",
                faults,
            )
        return plan

    def _new_plan(self) -> Result:
        check_model(self._config.model, len(self._config.classes))
        check_candidates(self._config)
        listing = list_pool(self._config.pool, storage.join(self._folder, "pool"))
        check_ids(listing)
        return {
            "config": self._config.planned(),
            "seed": _round_seed(self._config.seed, self._round_id),
            "pool": listing.to_json(),
            "targets": self._targets(),
            "manifest_version": self._manifest.version,
            "baal_ray": baal_ray.__version__,
        }

    def _targets(self) -> Result | None:
        """The images that predictions are to be right for, where they are not the pool."""
        targets = self._config.selection.targets
        if targets is None:
            return None
        listing = list_pool(targets, storage.join(self._folder, "targets"))
        check_ids(listing)
        return listing.to_json()

    def _differences(self, plan: Result) -> Iterator[str]:
        # A plan of an older version lacks the settings that are new; they had their defaults then.
        planned = RoundConfig.from_dict(plan["config"], self._results.uri("plan")).planned()
        return differences(planned, self._config.planned())

    def _changes(self, plan: Result) -> list[str]:
        """What has become of the pool's files since, while they are still to be scored."""
        scored = storage.exists(self._results.uri("scores"))
        return [] if scored else PoolListing.from_json(plan["pool"]).changes()

    def _fit(self, plan: Result) -> Result:
        labelled = self._manifest.at(plan["manifest_version"]).labelled()
        if not len(labelled):
            logger.warning("nothing is labelled yet: the first acquisition batch is random")
            return {"checkpoint": None, "labels": 0, "metrics": {}}
        fit = fit_model(self._config, labelled)
        if fit.reused:
            logger.warning(
                "no new labels since checkpoint %s was fitted: it is used again", fit.checkpoint
            )
        return {
            "checkpoint": fit.checkpoint,
            "labels": fit.labels,
            "metrics": fit.history[-1],
            "reused": fit.reused,
        }

    def _fix_batch_size(self, fit: Result) -> None:
        """Go on with the mini-batch size of this model, where the configuration has none."""
        config = self._config
        if fit["checkpoint"] is not None:
            checkpoint = checkpoint_uri(config.workspace, fit["checkpoint"])
            scoring = with_batch_size(config.scoring, checkpoint, config.resources, config.seed)
            self._config = config.model_copy(update={"scoring": scoring})

    def _score(self, plan: Result, fit: Result) -> Result:
        if fit["checkpoint"] is None:
            return {"scores": None, "scored": 0, "unreadable": 0}
        config = self._config
        checkpoint = checkpoint_uri(config.workspace, fit["checkpoint"])
        folder = fingerprint_uri(
            scores_uri(config.workspace), checkpoint, config.scoring, config.seed
        )
        already = scored_already(folder)
        listing, leave_out = _pool_of(plan), self._acquired() | already
        with telling_progress(folder, max(0, listing.rows - len(leave_out))):
            done = score_images(
                read_pool(listing, leave_out=leave_out),
                checkpoint,
                folder,
                already,
                config.scoring,
                config.resources,
                config.seed,
                keep_by=config.selection.ranked_by,
            )
        allowed = config.scoring.max_unreadable
        if done.unreadable > allowed * done.rows:
            raise UnreadableImagesError(
                f"{done.unreadable} of {done.rows} images are unreadable; scoring.max_unreadable "
                f"allows {allowed:.2%}. The column `error` in {folder} says why, image by image; "
                "mend that or allow more, and run this round again: these images are tried again, "
                "and the others are not scored twice"
            )
        return {"scores": folder, "scored": done.scored, "unreadable": done.unreadable}

    def _candidates(
        self, plan: Result, fit: Result, scores: Result, attempt: int
    ) -> Result | None:
        """What the further stages of scoring come to; picks at random need none."""
        if (
            not self._config.scoring.further_stages
            or self._config.selection.by == "random"
            or scores["scores"] is None
        ):
            return None
        stage = _attempted("candidates", attempt)
        return self._results.once(stage, lambda: self._score_candidates(plan, fit, scores))

    def _score_candidates(self, plan: Result, fit: Result, scores: Result) -> Result:
        checkpoint = checkpoint_uri(self._config.workspace, fit["checkpoint"])
        stages = list(
            score_candidates(
                self._config,
                _pool_of(plan),
                checkpoint,
                scores["scores"],
                self._acquired(),
                self._seed_of(plan),
            )
        )
        last = stages[-1]
        return {
            "scores": last.uri if len(last.candidates) else scores["scores"],
            "ids": publish_table(storage.join(self._folder, "candidates"), last.candidates),
            "stages": [stage.figures() for stage in stages],
        }

    def _acquire(self, plan: Result, fit: Result, scores: Result) -> tuple[Result | None, Result]:
        """Select, fetch and commit; the next best take the place of what another round took.

        Each attempt has files of its own, and none is deleted or replaced before the round is
        committed: another machine may be committing it.
        """
        refused = 0
        while True:
            attempt = self._committed_attempt() or max(self._last_attempt(), refused + 1)
            candidates = self._candidates(plan, fit, scores, attempt)
            stage = _attempted("batch", attempt)
            batch = self._results.once(stage, partial(self._pick, plan, fit, scores, candidates))
            try:
                self._manifest.acquire(read_batch(self._batch_files(batch)), self._round_id)
            except AlreadyAcquiredError as error:
                logger.warning("%s", error)
                refused = attempt
            except ManifestError:
                if self._committed_attempt() in (None, attempt):
                    raise  # else another machine has committed this round meanwhile
            else:
                return candidates, batch

    def _last_attempt(self) -> int:
        """The number of attempts at a batch so far; all but the last were refused."""
        there = (storage.exists(self._results.uri(_attempted("batch", n))) for n in count(1))
        return sum(takewhile(bool, there))

    def _committed_attempt(self) -> int | None:
        """The attempt whose picks are in the manifest, if this round's are there."""
        committed = set(self._manifest.rows(round_id=self._round_id)["id"].to_pylist())
        if not committed:
            return None
        for attempt in range(self._last_attempt(), 0, -1):
            batch = self._results.read(_attempted("batch", attempt))
            files = self._batch_files(batch) if batch else []
            # Once the round is committed, the files of other attempts are removed.
            there = all(map(storage.exists, files))
            if there and set(read_batch(files)["id"].to_pylist()) == committed:
                return attempt
        raise StorageError(
            f"round {self._round_id} is in the manifest with {len(committed)} picks, and no "
            f"batch in {self._folder} is of these; put back its batch.json and batch/"
        )

    def _pick(
        self, plan: Result, fit: Result, scores: Result, candidates: Result | None
    ) -> Result:
        only = None
        if candidates is not None:
            with open_parquet(candidates["ids"]) as ids:
                only = IdSet.of(ids.read()["id"])
        ranking = Ranking(
            config=self._config,
            listing=_pool_of(plan),
            model=fit["checkpoint"],
            scores=scores["scores"],
            last_scores=(candidates or scores)["scores"],
            candidates=only,
            seed=self._seed_of(plan),
            targets=_pool_of(plan, "targets") if plan.get("targets") else None,
        )
        return pick_batch(ranking, self._batch_folder, self._acquired())

    def _finish(
        self, fit: Result, scores: Result, candidates: Result | None, batch: Result
    ) -> RoundResult:
        stages = {"fit": fit, "score": scores, "select": batch}
        if candidates is not None:
            stages["candidates"] = candidates
        result = {
            "round_id": self._round_id,
            "acquired": batch["acquired"],
            "checkpoint": fit["checkpoint"],
            "rule": batch["rule"],
            "scored": scores["scored"],
            "unreadable": scores["unreadable"],
            "labels": fit["labels"],
            "metrics": fit["metrics"],
            "seconds": {name: stage["seconds"] for name, stage in stages.items()},
            "further_stages": candidates["stages"] if candidates else [],
            "stability": batch["stability"] and batch["stability"]["mean"],
            "random": batch.get("random", 0),  # picked by an earlier version
        }
        versions = {"baal_ray": baal_ray.__version__, "ray": ray.__version__}
        done = {
            "result": result,
            "scores": scores["scores"],
            "candidates": candidates,
            "stability": batch["stability"],
            "versions": versions,
        }
        self._delete_strays(batch)
        theirs = self._results.create("round", done) is not done
        finished = self._finished() if theirs else None
        return finished or RoundResult(**result, committed_before=False)

    def _delete_strays(self, batch: Result) -> None:
        """Remove what a kill, or picks that another round took, left in the batch's folder."""
        for file in set(storage.list_files(self._batch_folder)) - set(self._batch_files(batch)):
            if storage.is_named_by_sha256(file):
                storage.delete(file)

    def _seed_of(self, plan: Result) -> int:
        """Of the round's draws; a plan of an older version has none."""
        seed: int = plan.get("seed", self._config.seed)
        return seed

    def _acquired(self) -> IdSet:
        return IdSet.of(self._manifest.ids())

    @property
    def _batch_folder(self) -> str:
        return batch_uri(self._config.workspace, self._round_id)

    def _batch_files(self, batch: Result) -> list[str]:
        return [storage.join(self._batch_folder, name) for name in batch["files"]]


def _attempted(stage: str, attempt: int) -> str:
    return stage if attempt == 1 else f"{stage}-{attempt}"


def _pool_of(plan: Result, name: str = "pool") -> PoolListing:
    return PoolListing.from_json(plan[name])


def _round_seed(seed: int, round_id: str) -> int:
    """So that images with bad luck in one round's draws have new luck in the next."""
    return int(storage.sha256(f"{seed} {round_id}".encode())[:8], 16)
