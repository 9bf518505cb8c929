"""Score the most promising images of a scored pool with more posterior samples."""

import logging
from dataclasses import dataclass

import pyarrow as pa

from baal_ray.candidates import places
from baal_ray.config import RoundConfig, SecondStageConfig
from baal_ray.first_samples import kept_log_probs
from baal_ray.ids import IdSet
from baal_ray.pool import read_pool
from baal_ray.pool_listing import PoolListing
from baal_ray.scoring import (
    ScoredAlready,
    fingerprint_uri,
    score_files,
    score_images,
    scored_already,
)
from baal_ray.selection import top_share
from baal_ray.workspace import scores_uri

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredCandidates:
    """What a second stage came to.

    Attributes:
        uri: the folder of their scores, which a pool scored so from the start would have too.
        candidates: their `id` and `source`, most promising first.
        scored: how many were scored by this call.
        kept: how many of those had their first samples kept, so that only the others were drawn.
    """

    uri: str
    candidates: pa.Table
    scored: int
    kept: int


def score_candidates(
    config: RoundConfig,
    second: SecondStageConfig,
    listing: PoolListing,
    checkpoint: str,
    scores: str,
    leave_out: IdSet,
) -> ScoredCandidates:
    """Score the most promising share of a pool, less what is scored so already.

    The next best take the place of candidates that cannot be found in the pool any more.

    Args:
        config: of the round.
        second: how many samples, and for what share of the pool.
        listing: the pool.
        checkpoint: the folder of the model that scored it.
        scores: the folder of the first stage's scores.
        leave_out: ids that are no candidates.
    """
    k, by, seed = config.selection.k, config.selection.by, config.seed
    files = score_files(scores)
    scoring = config.scoring.with_samples(second.samples)
    folder = fingerprint_uri(scores_uri(config.workspace), checkpoint, scoring, seed)
    only, scored, kept = None, 0, 0
    while True:
        candidates = top_share(files, second.share, k, by, seed, leave_out=leave_out, only=only)
        lost, already = _missing(candidates, folder)
        for place in places(listing, lost):
            ids = IdSet.of(lost["id"])
            first = kept_log_probs(files, ids, config.scoring.samples)
            pool, resources = read_pool(place, only=ids), config.resources
            done = score_images(
                pool, checkpoint, folder, already, scoring, resources, seed, first=first
            )
            scored, kept = scored + done.scored, kept + first.images
            lost, already = _missing(candidates, folder)
            if not len(lost):
                break
        if not len(lost):
            return ScoredCandidates(folder, candidates, scored, kept)
        logger.warning("%d candidates are gone: the next best take their place", len(lost))
        leave_out, only = leave_out | IdSet.of(lost["id"]), only or listing.ids()


def _missing(candidates: pa.Table, folder: str) -> tuple[pa.Table, ScoredAlready]:
    """Which candidates have no row in a folder of scores yet, and which images have."""
    already = scored_already(folder)
    return candidates.filter(pa.array(~already.ids.contains(candidates["id"]))), already
