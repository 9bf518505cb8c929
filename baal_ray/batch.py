"""The acquisition batch: the k most informative images that can be fetched."""

import logging
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa
from torch import Tensor

from baal_ray.candidates import read_batch, write_batch
from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.joint_rules import best_together
from baal_ray.pool_listing import PoolListing
from baal_ray.predictions import draw_predictions
from baal_ray.schema import SELECTION
from baal_ray.scoring import score_files
from baal_ray.selection import overlaps, top_k, top_k_of
from baal_ray.workspace import checkpoint_uri

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranking:
    """What a batch is picked by.

    Attributes:
        config: of the round.
        listing: the pool.
        model: sha256 of the checkpoint that scored it; None where nothing did.
        scores: the folder of its scores; None to pick at random.
        seed: of the round's draws.
        targets: the images that "epig" wants predictions to be right for; None for the pool.
    """

    config: RoundConfig
    listing: PoolListing
    model: str | None
    scores: str | None
    seed: int
    targets: PoolListing | None = None

    def best(self, leave_out: IdSet, only: IdSet | None) -> pa.Table:
        """The k best by the configured rule, or at random when there are no scores."""
        selection = self.config.selection
        if self.scores is None:
            ids = self.listing.read_ids()
            best = top_k_of(ids, selection.k, "random", self.seed, leave_out=leave_out)
        else:
            best = top_k(
                score_files(self.scores),
                selection.candidate_count if selection.joint else selection.k,
                selection.ranked_by,
                self.seed,
                leave_out=leave_out,
                only=only,
                coldness=selection.coldness,
            )
            if selection.joint and len(best):
                best = self._best_together(best)
        model = pa.repeat(pa.scalar(self.model, pa.string()), len(best))
        return best.append_column("model", model).select(SELECTION.names).cast(SELECTION)

    def _best_together(self, candidates: pa.Table) -> pa.Table:
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
            selection.k,
            self.seed,
            target_log_probs_M_K_C,
        )

    def _predictions(self, listing: PoolListing, images: pa.Table) -> tuple[pa.Table, Tensor]:
        assert self.model is not None
        checkpoint = checkpoint_uri(self.config.workspace, self.model)
        return draw_predictions(listing, images, checkpoint, self.config)

    def stability(
        self, picks: pa.Table, leave_out: IdSet, only: IdSet | None
    ) -> dict[str, Any] | None:
        """How many of BALD's picks stay without each fifth of the posterior samples."""
        if self.scores is None or self.config.selection.by != "bald":
            return None
        files = score_files(self.scores)
        without = overlaps(files, picks["id"], self.seed, leave_out=leave_out, only=only)
        return {"without": without, "mean": fmean(without)} if without else None


def pick_batch(
    ranking: Ranking, folder: str, leave_out: IdSet, only: IdSet | None
) -> dict[str, Any]:
    """Pick a batch and write it to a folder, images and all; nothing is committed.

    The next best take the place of picks that cannot be fetched or shown.

    Args:
        ranking: what it is picked by.
        folder: of the batch.
        leave_out: ids that are not to be picked.
        only: ids to keep to.

    Returns:
        `acquired` (how many), `rule`, `stability`, and the `files` in the folder that hold the
        batch, by name.
    """
    while True:
        selection = ranking.best(leave_out, only)
        files = write_batch(ranking.listing, selection, folder, ranking.config)
        picks = read_batch(files)
        lost = sorted(set(selection["id"].to_pylist()) - set(picks["id"].to_pylist()))
        if not lost:
            break
        logger.warning(
            "%d picks cannot be fetched or shown, such as %r: the next best take their place",
            len(lost),
            lost[0],
        )
        # Scores outlive images: from here on, keep to what the pool holds now.
        leave_out, only = leave_out | IdSet.of(lost), only or ranking.listing.ids()
    k = ranking.config.selection.k
    if len(picks) < k:
        logger.warning("the pool has only %d images to acquire; selection.k is %d", len(picks), k)
    return {
        "acquired": len(picks),
        "rule": picks["rule"][0].as_py() if len(picks) else ranking.config.selection.by,
        "stability": ranking.stability(picks, leave_out, only),
        "files": [file.rsplit("/", 1)[-1] for file in files],
    }
