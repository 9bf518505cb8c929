"""Score the most promising images of a scored pool with more and more posterior samples.

Successive halving (Jamieson and Talwalkar 2016): each stage draws more samples for fewer images.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from baal_ray.config import RoundConfig, ScoringConfig
from baal_ray.ids import IdSet
from baal_ray.pool import PoolListing, read_pool
from baal_ray.pool.listing import places
from baal_ray.scoring.fingerprint import fingerprint_uri
from baal_ray.scoring.kept_samples import kept_log_probs
from baal_ray.scoring.stage import score_images
from baal_ray.selection.ranking import count_eligible, top_ids
from baal_ray.workspace import scores_uri
from baal_ray.workspace.scores import score_files, scored_already
from baal_ray.workspace.stages import FurtherStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredCandidates:
    """The result of a further stage.

    Attributes:
        uri: The folder of their scores, which a pool scored so from the start would have too.
        candidates: Their `id` and `source`, most promising first.
        figures: The numbers for the round's record.
    """

    uri: str
    candidates: pa.Table
    figures: FurtherStage


def score_candidates(
    config: RoundConfig,
    listing: PoolListing,
    checkpoint: str,
    scores: str,
    leave_out: IdSet,
    seed: int,
) -> Iterator[ScoredCandidates]:
    """Run the further stages of scoring, each on the most promising images of the one before.

    A stage has its share of the pool, but not less than what the batch is picked from. What is
    scored already is not scored again, and the next best take the place of candidates that cannot
    be found in the pool any more.

    Args:
        config: of the round.
        listing: the pool.
        checkpoint: the folder of the model that scored it.
        scores: the folder of the first stage's scores.
        leave_out: ids that are no candidates.
        seed: of the round's draws.
    """
    selection = config.selection
    least = selection.candidate_count if selection.narrows else selection.k
    eligible = count_eligible(score_files(scores), selection.ranked_by, leave_out=leave_out)
    before, only = config.scoring, None
    for number, stage in enumerate(config.scoring.further_stages):
        size = max(least, math.ceil(stage.share * eligible))
        scoring = config.scoring.at_stage(number)
        run = _Stage(config, listing, checkpoint, scores, before.samples, scoring, size, seed)
        done = run(leave_out, only)
        yield done
        if not len(done.candidates):
            return
        scores, before, only = done.uri, scoring, IdSet.of(done.candidates["id"])


@dataclass(frozen=True)
class _Stage:
    """One stage: from the scores of the one before to its own."""

    config: RoundConfig
    listing: PoolListing
    checkpoint: str
    scores_before: str
    samples_before: int
    scoring: ScoringConfig
    size: int
    seed: int

    def __call__(self, leave_out: IdSet, only: IdSet | None) -> ScoredCandidates:
        selection = self.config.selection
        files = score_files(self.scores_before)
        scored = kept = 0
        while True:
            candidates = top_ids(
                files,
                self.size,
                selection.ranked_by,
                self.seed,
                leave_out=leave_out,
                only=only,
                coldness=selection.coldness,
            )
            lost, already = self._missing(candidates)
            for place in places(self.listing, lost):
                ids = IdSet.of(lost["id"])
                first = kept_log_probs(files, ids, self.samples_before)
                done = score_images(
                    read_pool(place, only=ids),
                    self.checkpoint,
                    self._folder,
                    already,
                    self.scoring,
                    self.config.resources,
                    self.config.seed,
                    keep_by=selection.ranked_by,
                    first=first,
                )
                scored, kept = scored + done.scored, kept + first.images
                lost, already = self._missing(candidates)
                if not len(lost):
                    break
            if not len(lost):
                figures = FurtherStage(
                    samples=self.scoring.samples,
                    images=len(candidates),
                    scored=scored,
                    kept=kept,
                )
                return ScoredCandidates(self._folder, candidates, figures)
            logger.warning("%d candidates are gone: the next best take their place", len(lost))
            leave_out, only = leave_out | IdSet.of(lost["id"]), only or self.listing.ids()

    @property
    def _folder(self) -> str:
        scores = scores_uri(self.config.workspace)
        return fingerprint_uri(scores, self.checkpoint, self.scoring, self.config.seed)

    def _missing(self, candidates: pa.Table) -> tuple[pa.Table, IdSet]:
        """Which candidates have no scores yet, and which images have."""
        already = scored_already(self._folder)
        return candidates.filter(pa.array(~already.contains(candidates["id"]))), already
