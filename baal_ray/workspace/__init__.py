"""A workspace: the locations of its files, and their formats."""

from baal_ray.workspace.layout import (
    batch_uri,
    checkpoint_uri,
    fits_uri,
    is_round_id,
    manifest_uri,
    report_uri,
    round_uri,
    rounds_uri,
    scores_uri,
    stage_uri,
)

__all__ = [
    "batch_uri",
    "checkpoint_uri",
    "fits_uri",
    "is_round_id",
    "manifest_uri",
    "report_uri",
    "round_uri",
    "rounds_uri",
    "scores_uri",
    "stage_uri",
]
