"""The acquisition batch: the most informative images that can be fetched, and a random control."""

import logging
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.image_set import ImageSet
from baal_ray.pool import PoolListing
from baal_ray.score_names import BY_BALD
from baal_ray.selection.batch_files import count_evaluation_images, write_batch
from baal_ray.selection.joint_rules import best_together, candidates_for
from baal_ray.selection.near_duplicates import spread_out
from baal_ray.selection.predictions import draw_features, draw_predictions
from baal_ray.selection.ranking import Ranking
from baal_ray.workspace import checkpoint_uri
from baal_ray.workspace.batches import read_batch
from baal_ray.workspace.stage_files import BatchResult, Stability
from baal_ray.workspace.table_schemas import SELECTION

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picker:
    """The choice of a batch's images: everything that decides the picks.

    Attributes:
        config: Configuration of the round.
        listing: The pool.
        model: Sha256 of the checkpoint that scored the pool; None without one.
        scores: Files of the pool's scores; none to pick at random.
        last_scores: Files of the last stage's scores, which the best are picked by; the same as
            `scores` if there is one stage.
        candidates: Ids to pick the best from; None for the whole pool.
        draw_seed: Seed of the round's draws.
        evaluation: Images that must not be picked under any id; None for none.
        targets: Images for which "epig" improves predictions; None for the pool.
    """

    config: RoundConfig
    listing: PoolListing
    model: str | None
    scores: list[str]
    last_scores: list[str]
    candidates: IdSet | None
    draw_seed: int
    evaluation: ImageSet | None = None
    targets: PoolListing | None = None

    @property
    def rule(self) -> str:
        """The rule that ranks the picks, except the control; "random" without scores."""
        return self.config.selection.by if self.scores else "random"

    def picks(self, leave_out: IdSet, only: IdSet | None) -> pa.Table:
        """Return the k picks: a random control from the whole pool, and the best of all others.

        The control is drawn first, so that it is a uniform sample of the pool. Drawn from the
        images that the rule leaves, it would have too few informative ones.
        """
        if not self.scores:
            ids, k = self.listing.read_ids(), self.config.selection.k
            return self._named(Ranking("random", self.draw_seed, leave_out).best_of(ids, k))
        control = self._control(leave_out, only)
        best = self._best(leave_out | IdSet.of(control["id"]), only, less=len(control))
        return _spread(best, control)

    def stability(self, picks: pa.Table, leave_out: IdSet, only: IdSet | None) -> Stability | None:
        """Estimate the share of the picks that other posterior samples would pick as well."""
        selection = self.config.selection
        if not self.last_scores or selection.by not in BY_BALD or selection.narrows:
            return None
        random = pc.equal(picks["rule"], "random")
        ranking = self._ranking(leave_out | IdSet.of(picks.filter(random)["id"]), only)
        active = picks.filter(pc.invert(random))["id"]
        without = ranking.overlaps(self.last_scores, active)
        return Stability(without=without, mean=fmean(without)) if without else None

    def _control(self, leave_out: IdSet, only: IdSet | None) -> pa.Table:
        """Return the random share of the batch, from all images scored without an error."""
        count = self.config.selection.random_count
        if not count:
            return SELECTION.empty_table()
        # Ties and noise are hashes of the same ids, under the round's own seed.
        ranking = Ranking("random", self.draw_seed + 1, leave_out, only)
        return self._named(ranking.best(self.scores, count))

    def _ranking(self, leave_out: IdSet, only: IdSet | None) -> Ranking:
        selection = self.config.selection
        only = only if self.candidates is None else self.candidates
        return Ranking(selection.ranked_by, self.draw_seed, leave_out, only, selection.coldness)

    def _best(self, leave_out: IdSet, only: IdSet | None, less: int) -> pa.Table:
        """Return the best by the configured rule: k images, minus `less` for the control."""
        selection = self.config.selection
        k = selection.k - less
        size = selection.candidate_count if selection.narrows else k
        ranking = self._ranking(leave_out, only)
        files = self.last_scores
        best = candidates_for(selection.by, ranking, size, lambda by, n: by.best(files, n))
        if selection.joint and len(best):
            best = self._best_together(best, k)
        elif selection.narrows and len(best):
            best = self._spread_out(best, k)
        return self._named(best)

    def _named(self, picks: pa.Table) -> pa.Table:
        """Return picks with the model and the name of the class that it predicted."""
        classes = pa.array(self.config.classes, pa.string())
        scored = "predicted" in picks.column_names
        predicted = classes.take(picks["predicted"]) if scored else pa.nulls(len(picks))
        columns = {name: picks[name] for name in ("id", "source", "rank", "score", "rule")}
        columns["model"] = pa.repeat(pa.scalar(self.model, pa.string()), len(picks))
        return pa.table(columns | {"predicted": predicted}).cast(SELECTION)

    def _best_together(self, candidates: pa.Table, k: int) -> pa.Table:
        """Return the k best by a rule that needs the candidates' predictions."""
        selection = self.config.selection
        candidates, log_probs_N_K_C = self._predictions(self.listing, candidates)
        targets = self.targets or self.listing
        target_log_probs_M_K_C = None
        if selection.by == "epig":
            ranking = Ranking("random", self.draw_seed)
            some = ranking.best_of(targets.read_ids(), selection.target_images)
            _, target_log_probs_M_K_C = self._predictions(targets, some)
        return best_together(
            selection.by,
            candidates,
            log_probs_N_K_C,
            k,
            self.draw_seed,
            target_log_probs_M_K_C,
        )

    def _spread_out(self, candidates: pa.Table, k: int) -> pa.Table:
        """Return the first k candidates of which no two are nearly the same image to the model."""
        most_alike = self.config.selection.most_alike
        assert most_alike is not None
        candidates, features_N_D = draw_features(
            self.listing, candidates, self._checkpoint(), self.config
        )
        picks = spread_out(features_N_D, k, most_alike)
        ranks = pa.array(range(1, len(picks) + 1), pa.int32())
        best = candidates.take(pa.array(picks.numpy()))
        return best.set_column(best.column_names.index("rank"), "rank", ranks)

    def _predictions(self, listing: PoolListing, images: pa.Table) -> tuple[pa.Table, Tensor]:
        return draw_predictions(listing, images, self._checkpoint(), self.config)

    def _checkpoint(self) -> str:
        assert self.model is not None
        return checkpoint_uri(self.config.workspace, self.model)


def _spread(best: pa.Table, control: pa.Table) -> pa.Table:
    """Return the best and the control as one batch with new ranks, the control spread evenly.

    So annotators who go by rank and stop early have labelled about the same share of each. The
    i-th of n picks is placed at (i - 1/2) / n of the batch.
    """
    places = [(np.arange(len(picks)) + 0.5) / len(picks) for picks in (best, control)]
    order = np.argsort(np.concatenate(places), kind="stable")
    batch = pa.concat_tables([best, control]).take(order)
    ranks = pa.array(range(1, len(batch) + 1), pa.int32())
    return batch.set_column(batch.column_names.index("rank"), SELECTION.field("rank"), ranks)


def pick_batch(picker: Picker, folder: str, leave_out: IdSet) -> BatchResult:
    """Pick a batch and write it to a folder, including its images. Nothing is committed.

    If a pick cannot be fetched or shown, or is an evaluation image, the next best takes its place.
    In the control, the next image of the random order does.

    Args:
        picker: Picker of the images.
        folder: Folder of the batch.
        leave_out: Ids that must not be picked.

    Returns:
        The batch, without its duration.
    """
    only = None
    evaluation_images = 0
    while True:
        selection = picker.picks(leave_out, only)
        files = write_batch(picker.listing, selection, folder, picker.config, picker.evaluation)
        picks = read_batch(files)
        lost = selection.filter(pc.invert(pc.is_in(selection["id"], picks["id"])))
        if not len(lost):
            break
        evaluation_images += count_evaluation_images(picker.listing, lost, picker.evaluation)
        logger.warning(
            "%d picks cannot be fetched or shown, or are evaluation images, such as %r: the next "
            "best replace them",
            len(lost),
            pc.min(lost["id"]).as_py(),
        )
        # Scores outlive images. From here on, pick only images that are in the pool now.
        leave_out, only = leave_out | IdSet.of(lost["id"]), only or picker.listing.ids()
    k = picker.config.selection.k
    if len(picks) < k:
        logger.warning("only %d images can be picked; selection.k is %d", len(picks), k)
    return BatchResult(
        acquired=len(picks),
        random=int(pc.sum(pc.equal(picks["rule"], "random")).as_py() or 0),
        rule=picker.rule,
        stability=picker.stability(picks, leave_out, only),
        files=[storage.name(file) for file in files],
        evaluation_images=evaluation_images,
    )
