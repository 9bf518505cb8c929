"""The page of a round: what was acquired and why, how good the model is, and what went wrong."""

import numpy as np
import pyarrow as pa

from baal_ray import storage
from baal_ray.checkpoint import load_checkpoint
from baal_ray.errors import StorageError
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.pool import sample_pool
from baal_ray.report import page
from baal_ray.report.feature_map import FeatureMap, feature_map
from baal_ray.report.page import Section
from baal_ray.report.round_doubts import doubts
from baal_ray.report.round_facts import PastRound, RoundFacts, gather
from baal_ray.report.round_sections import (
    batch_section,
    calibration_section,
    failures_section,
    learning_section,
    map_section,
    scores_section,
    time_section,
)
from baal_ray.workspace import batch_uri, checkpoint_uri, manifest_uri, report_uri
from baal_ray.workspace.batches import encoded_images
from baal_ray.workspace.scores import score_files

# Images on the map, and how long the model may take for them on this machine's CPU.
_POOL_PLACES, _POOL_IMAGES = 50, 500
_LABELLED_IMAGES, _LABELLED_ROUNDS, _BATCH_IMAGES = 300, 10, 200
_MAP_SECONDS = 60.0


def write_round_report(
    workspace: str, round_id: str, *, with_map: bool, uri: str | None = None
) -> str:
    """Write a finished round's page.

    Args:
        workspace: the round's.
        round_id: its name.
        with_map: whether to draw the map of features, which takes the model and images of the
            pool: a minute or less.
        uri: where to write it; in the round's folder by default.

    Returns:
        Where it is.

    Raises:
        ConfigError: there is no such round, or it is not finished.
        StorageError: something cannot be read or written.
    """
    facts = gather(workspace, round_id)
    drawn = _feature_map(workspace, facts) if with_map else None
    uri = uri or report_uri(workspace, round_id)
    storage.publish(uri, round_page(facts, drawn).encode())
    return uri


def round_page(facts: RoundFacts, drawn: FeatureMap | None) -> str:
    """The page as HTML, from what was gathered of the round and its map of features if any."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.record.versions.items())
    return page.render(
        f"Acquisition round {facts.round_id}",
        [
            page.paragraph(_lead(facts), "lead"),
            page.warning("Before you rely on this", list(doubts(facts))),
        ],
        _facts(facts),
        [
            Section("Acquisition batch", batch_section(facts)),
            Section("Scores and classes", scores_section(facts)),
            Section("Learning curve", learning_section(facts)),
            Section("Calibration", calibration_section(facts)),
            Section("Map of features", map_section(drawn)),
            Section("Failures", failures_section(facts)),
            Section("Time", time_section(facts)),
        ],
        f"{versions}. Seed {facts.config.seed}. Model {facts.result.checkpoint or 'none'}.",
    )


def _lead(facts: RoundFacts) -> str:
    result, images = facts.result, facts.pool.rows
    if not result.acquired:
        return f"Nothing was acquired: the pool of {images:,} images had none left to pick."
    acquired = f"{result.acquired:,} of {images:,} images were acquired by {result.rule}"
    if random := len(facts.batch) - len(facts.active()):
        acquired += f", {random:,} of them at random"
    if result.checkpoint is None:
        return f"{acquired}, as nothing was labelled yet that a model could be fitted on."
    return f"{acquired}, after a fit on {result.labels:,} labels{_accuracy(facts.rounds[-1])}."


def _accuracy(past: PastRound) -> str:
    accuracy, error = past.metric("accuracy"), past.margin()
    if np.isnan(accuracy):
        return ""
    images = past.metric("images")
    return (
        f" that is right on {accuracy:.1%} of {images:,.0f} evaluation images (±\u00a0{error:.1%})"
    )


def _facts(facts: RoundFacts) -> list[tuple[str, str]]:
    result, selection = facts.result, facts.config.selection
    stability = result.stability
    return [
        ("rule", result.rule),
        ("acquired", f"{result.acquired:,} of {selection.k:,} wanted"),
        ("labels before", f"{result.labels:,}"),
        ("labelled since", f"{len(facts.labels):,} of {len(facts.batch):,}"),
        ("posterior samples", str(facts.config.scoring.last_stage.samples)),
        ("unreadable", f"{result.unreadable:,}"),
        *([("stable picks", f"{stability:.0%}")] if stability is not None else []),
    ]


def _feature_map(workspace: str, facts: RoundFacts) -> FeatureMap | None:
    """The map of a sample of the pool, of labelled images and of picks; None without a model."""
    sha256 = facts.result.checkpoint
    if sha256 is None or not len(facts.batch):
        return None
    groups = {
        "pool": _pool_images(workspace, facts),
        "labelled before": _labelled_images(workspace, facts),
        "acquired": list(
            encoded_images(
                facts.batch_files, facts.batch["id"].to_pylist()[:_BATCH_IMAGES]
            ).values()
        ),
    }
    return feature_map(
        load_checkpoint(checkpoint_uri(workspace, sha256)),
        groups,
        max_pixels=facts.config.scoring.max_pixels,
        seconds=_MAP_SECONDS,
    )


def _pool_images(workspace: str, facts: RoundFacts) -> list[bytes]:
    """A sample of what was not acquired, before or now."""
    groups = sum(len(file.row_groups) for file in facts.pool.files)
    places = max(1, min(_POOL_PLACES, groups))
    sample = sample_pool(facts.pool, places, -(-_POOL_IMAGES // places))
    acquired = IdSet.of(Manifest(manifest_uri(workspace)).ids())
    rows = sample.filter(pa.array(~acquired.contains(sample["id"])))
    return [image for image in rows["image"].to_pylist() if image is not None]


def _labelled_images(workspace: str, facts: RoundFacts) -> list[bytes]:
    """A sample of what the model was fitted on, from the latest rounds that had labels."""
    manifest = Manifest(manifest_uri(workspace))
    try:
        fitted_on = manifest.at(facts.manifest_version).labelled()
    except StorageError:  # so old a version may have been pruned
        return []
    came = [name for name in manifest.rounds() if name in set(fitted_on["round"].to_pylist())]
    latest = came[-_LABELLED_ROUNDS:]
    rows = fitted_on.filter(pa.array([name in latest for name in fitted_on["round"].to_pylist()]))
    order = np.random.default_rng(0).permutation(len(rows))[:_LABELLED_IMAGES]
    files = [file for name in latest for file in score_files(batch_uri(workspace, name))]
    return list(encoded_images(files, rows["id"].take(order).to_pylist()).values())
