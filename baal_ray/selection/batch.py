"""The acquisition batch: the most informative images that can be fetched, and a random control."""

import logging
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.pool import PoolListing
from baal_ray.selection.batch_files import write_batch
from baal_ray.selection.joint_rules import best_together
from baal_ray.selection.predictions import draw_features, draw_predictions
from baal_ray.selection.ranking import overlaps, top_k, top_k_of
from baal_ray.selection.rules import BY_BALD
from baal_ray.selection.spread import spread_out
from baal_ray.workspace import checkpoint_uri
from baal_ray.workspace.batches import read_batch
from baal_ray.workspace.schema import SELECTION
from baal_ray.workspace.scores import score_files
from baal_ray.workspace.stages import BatchResult, Stability

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranking:
    """What a batch is picked by.

    Attributes:
        config: of the round.
        listing: the pool.
        model: sha256 of the checkpoint that scored it; None where nothing did.
        scores: the folder of the pool's scores; None to pick at random.
        last_scores: the folder of the last stage's scores, which the best are picked by; that of
            the pool's where there is one stage.
        candidates: the ids that the best are among; None for the whole pool.
        seed: of the round's draws.
        targets: the images that "epig" wants predictions to be right for; None for the pool.
    """

    config: RoundConfig
    listing: PoolListing
    model: str | None
    scores: str | None
    last_scores: str | None
    candidates: IdSet | None
    seed: int
    targets: PoolListing | None = None

    @property
    def rule(self) -> str:
        """What picks are ranked by, but for the control: without scores all are random."""
        return "random" if self.scores is None else self.config.selection.by

    def picks(self, leave_out: IdSet, only: IdSet | None) -> pa.Table:
        """The k picks: a random control from the whole pool, and the best of all others.

        The control is drawn first, so that it is a uniform sample of the pool as it is. Without
        the images that would be picked anyway, it would have too few that are informative.
        """
        if self.scores is None:
            ids, k = self.listing.read_ids(), self.config.selection.k
            return self._named(top_k_of(ids, k, "random", self.seed, leave_out=leave_out))
        control = self._control(self.scores, leave_out, only)
        rest = leave_out | IdSet.of(control["id"])
        return _spread(self._best(rest, only, less=len(control)), control)

    def _control(self, scores: str, leave_out: IdSet, only: IdSet | None) -> pa.Table:
        """The random share of the batch, from all images that are scored without an error."""
        count = self.config.selection.random_count
        if not count:
            return SELECTION.empty_table()
        files = score_files(scores)
        # Ties and noise are hashes of the same ids, under the round's own seed.
        seed = self.seed + 1
        return self._named(top_k(files, count, "random", seed, leave_out=leave_out, only=only))

    def _best(self, leave_out: IdSet, only: IdSet | None, less: int) -> pa.Table:
        """The k best by the configured rule, less so many."""
        assert self.last_scores is not None
        selection = self.config.selection
        k = selection.k - less
        best = top_k(
            score_files(self.last_scores),
            selection.candidate_count if selection.narrows else k,
            selection.ranked_by,
            self.seed,
            leave_out=leave_out,
            only=self._narrower(only),
            coldness=selection.coldness,
        )
        if selection.joint and len(best):
            best = self._best_together(best, k)
        elif selection.narrows and len(best):
            best = self._spread_out(best, k)
        return self._named(best)

    def _narrower(self, only: IdSet | None) -> IdSet | None:
        return only if self.candidates is None else self.candidates

    def _named(self, picks: pa.Table) -> pa.Table:
        """Picks with the model, and with the name of the class that it predicted."""
        classes = pa.array(self.config.classes, pa.string())
        scored = "predicted" in picks.column_names
        predicted = classes.take(picks["predicted"]) if scored else pa.nulls(len(picks))
        columns = {name: picks[name] for name in ("id", "source", "rank", "score", "rule")}
        columns["model"] = pa.repeat(pa.scalar(self.model, pa.string()), len(picks))
        return pa.table(columns | {"predicted": predicted}).cast(SELECTION)

    def _best_together(self, candidates: pa.Table, k: int) -> pa.Table:
        """The k best by a rule that needs the candidates' predictions."""
        selection = self.config.selection
        candidates, log_probs_N_K_C = self._predictions(self.listing, candidates)
        targets = self.targets or self.listing
        target_log_probs_M_K_C = None
        if selection.by == "epig":
            some = top_k_of(targets.read_ids(), selection.target_images, "random", self.seed)
            _, target_log_probs_M_K_C = self._predictions(targets, some)
        return best_together(
            selection.by,
            candidates,
            log_probs_N_K_C,
            k,
            self.seed,
            target_log_probs_M_K_C,
        )

    def _spread_out(self, candidates: pa.Table, k: int) -> pa.Table:
        """The first k candidates of which no two are nearly the same image to the model."""
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

    def stability(self, picks: pa.Table, leave_out: IdSet, only: IdSet | None) -> Stability | None:
        """How many of the picks stay without each fifth of the posterior samples."""
        selection = self.config.selection
        if self.last_scores is None or selection.by not in BY_BALD or selection.narrows:
            return None
        random = pc.equal(picks["rule"], "random")
        without = overlaps(
            score_files(self.last_scores),
            picks.filter(pc.invert(random))["id"],
            selection.by,
            self.seed,
            leave_out=leave_out | IdSet.of(picks.filter(random)["id"]),
            only=self._narrower(only),
            coldness=selection.coldness,
        )
        return Stability(without=without, mean=fmean(without)) if without else None


def _spread(best: pa.Table, control: pa.Table) -> pa.Table:
    """Both as one batch, ranked anew: in every part of the ranks there is the control's share.

    Annotators who go by rank and stop early have then labelled about as much of one as of the
    other. The i-th of n has its place at (i - 1/2) / n of the batch.
    """
    places = [(np.arange(len(picks)) + 0.5) / len(picks) for picks in (best, control)]
    order = np.argsort(np.concatenate(places), kind="stable")
    batch = pa.concat_tables([best, control]).take(order)
    ranks = pa.array(range(1, len(batch) + 1), pa.int32())
    return batch.set_column(batch.column_names.index("rank"), SELECTION.field("rank"), ranks)


def pick_batch(ranking: Ranking, folder: str, leave_out: IdSet) -> BatchResult:
    """Pick a batch and write it to a folder, images and all; nothing is committed.

    The next best take the place of picks that cannot be fetched or shown, and in the control the
    next that chance would have drawn.

    Args:
        ranking: what it is picked by.
        folder: of the batch.
        leave_out: ids that are not to be picked.

    Returns:
        The batch, without its duration.
    """
    only = None
    while True:
        selection = ranking.picks(leave_out, only)
        files = write_batch(ranking.listing, selection, folder, ranking.config)
        picks = read_batch(files)
        lost = sorted(set(selection["id"].to_pylist()) - set(picks["id"].to_pylist()))
        if not lost:
            break
        logger.warning(
            "%d picks cannot be fetched or shown, such as %r: others take their place",
            len(lost),
            lost[0],
        )
        # Scores outlive images: from here on, keep to what the pool holds now.
        leave_out, only = leave_out | IdSet.of(lost), only or ranking.listing.ids()
    k = ranking.config.selection.k
    if len(picks) < k:
        logger.warning("the pool has only %d images to acquire; selection.k is %d", len(picks), k)
    return BatchResult(
        acquired=len(picks),
        random=int(pc.sum(pc.equal(picks["rule"], "random")).as_py() or 0),
        rule=ranking.rule,
        stability=ranking.stability(picks, leave_out, only),
        files=[file.rsplit("/", 1)[-1] for file in files],
    )
