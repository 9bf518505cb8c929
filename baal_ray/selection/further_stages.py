"""Score the most promising images of a scored pool with more and more posterior samples.

Successive halving (Jamieson and Talwalkar 2016): each stage draws more samples for fewer images.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from baal_ray.config import RoundConfig
from baal_ray.ids import IdSet
from baal_ray.pool import PoolListing, read_pool
from baal_ray.pool.listing import places
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.kept_samples import kept_log_probs
from baal_ray.scoring.stage import ScoreFolder
from baal_ray.selection.ranking import Ranking
from baal_ray.workspace import scores_uri
from baal_ray.workspace.stage_files import FurtherStage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredCandidates:
    """The result of a further stage.

    Attributes:
        uri: The folder of their scores. It is the same as for a pool scored with this many samples
            from the start.
        files: The files of their scores.
        candidates: Their `id` and `source`, most promising first.
        figures: The numbers for the round's record.
    """

    uri: str
    files: list[str]
    candidates: pa.Table
    figures: FurtherStage


def score_candidates(
    config: RoundConfig,
    listing: PoolListing,
    job: ScoringJob,
    scores: list[str],
    leave_out: IdSet,
    draw_seed: int,
) -> Iterator[ScoredCandidates]:
    """Run the further stages of scoring, each on the most promising images of the one before.

    A stage takes its share of the pool, but at least as many images as the batch is picked from.
    Images that are already scored are not scored again. Candidates that are no longer in the pool
    are replaced by the next best.

    Args:
        config: Configuration of the round.
        listing: The pool.
        job: Job that scored the pool in the first stage.
        scores: Files of the first stage's scores.
        leave_out: Ids that cannot be candidates.
        draw_seed: Seed of the round's draws.
    """
    selection = config.selection
    least = selection.candidate_count if selection.narrows else selection.k
    ranking = Ranking(selection.ranked_by, draw_seed, leave_out, coldness=selection.coldness)
    eligible = ranking.count(scores)
    for number, stage in enumerate(config.scoring.further_stages):
        size = max(least, math.ceil(stage.share * eligible))
        then = job.with_config(config.scoring.at_stage(number))
        run = _Stage(listing, then, scores_uri(config.workspace), job.config.samples, scores, size)
        done = run(ranking)
        yield done
        if not len(done.candidates):
            return
        scores, job = done.files, then
        ranking = replace(ranking, only=IdSet.of(done.candidates["id"]))


@dataclass(frozen=True)
class _Stage:
    """One stage: from the scores of the one before to its own."""

    listing: PoolListing
    job: ScoringJob
    scores: str
    samples_before: int
    scores_before: list[str]
    size: int

    def __call__(self, ranking: Ranking) -> ScoredCandidates:
        files = self.scores_before
        scored = kept = 0
        while True:
            candidates = ranking.ids(files, self.size)
            folder, lost = self._missing(candidates)
            for place in places(self.listing, lost):
                ids = IdSet.of(lost["id"])
                first = kept_log_probs(files, ids, self.samples_before)
                done = folder.add(read_pool(place, only=ids), keep_by=ranking.by, first=first)
                scored, kept = scored + done.scored, kept + first.images
                folder, lost = self._missing(candidates)
                if not len(lost):
                    break
            if not len(lost):
                figures = FurtherStage(
                    samples=self.job.config.samples,
                    images=len(candidates),
                    scored=scored,
                    kept=kept,
                )
                return ScoredCandidates(folder.uri, folder.files, candidates, figures)
            logger.warning(
                "%d candidates are no longer in the pool: the next best replace them", len(lost)
            )
            ranking = replace(
                ranking,
                leave_out=(ranking.leave_out or IdSet.of([])) | IdSet.of(lost["id"]),
                only=ranking.only or self.listing.ids(),
            )

    def _missing(self, candidates: pa.Table) -> tuple[ScoreFolder, pa.Table]:
        """Return the folder of the stage's scores, and the candidates that have none yet."""
        folder = ScoreFolder(self.job, self.scores)
        return folder, candidates.filter(pa.array(~folder.scored.contains(candidates["id"])))
