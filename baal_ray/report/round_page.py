"""The page of a round: its picks, the state of the model, and any failures."""

import numpy as np

from baal_ray import storage
from baal_ray.report import page
from baal_ray.report.class_section import class_section
from baal_ray.report.page import Section
from baal_ray.report.round_doubts import doubts
from baal_ray.report.round_facts import PastRound, RoundFacts, gather
from baal_ray.report.round_sections import (
    batch_section,
    calibration_section,
    failures_section,
    learning_section,
    scores_section,
    time_section,
)
from baal_ray.workspace import report_uri


def write_round_report(workspace: str, round_id: str, uri: str | None = None) -> str:
    """Write a finished round's page.

    Args:
        workspace: URI of the round's workspace.
        round_id: Name of the round.
        uri: File to write; in the round's folder by default.

    Returns:
        The URI of the page.

    Raises:
        ConfigError: If there is no such round, or if it is not finished.
        StorageError: If a file cannot be read or written.
    """
    uri = uri or report_uri(workspace, round_id)
    storage.publish(uri, round_page(gather(workspace, round_id)).encode())
    return uri


def round_page(facts: RoundFacts) -> str:
    """Return the page as HTML."""
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
            Section("Quality by class", class_section(facts)),
            Section("Calibration", calibration_section(facts)),
            Section("Failures", failures_section(facts)),
            Section("Time", time_section(facts)),
        ],
        f"{versions}. Seed {facts.config.seed}. Model {facts.result.checkpoint or 'none'}.",
    )


def _lead(facts: RoundFacts) -> str:
    result, images = facts.result, facts.pool.rows
    if not result.acquired:
        return f"Nothing was acquired: the pool of {images:,} images has none left to pick."
    acquired = f"{result.acquired:,} of {images:,} images were acquired by {result.rule}"
    if random := len(facts.batch) - len(facts.active()):
        acquired += f", {random:,} of them at random"
    if result.checkpoint is None:
        return f"{acquired}, because there were no labels yet to fit a model on."
    if not result.labels:
        return f"{acquired}, with the model in model.weights, which was not fitted."
    return f"{acquired}, after a fit on {result.labels:,} labels{_accuracy(facts.rounds[-1])}."


def _accuracy(past: PastRound) -> str:
    accuracy, (low, high) = past.metric("accuracy"), past.interval()
    if np.isnan(accuracy):
        return ""
    images = past.metric("images")
    return (
        f". The model is right on {accuracy:.1%} of {images:,.0f} evaluation images "
        f"({low:.1%} to {high:.1%})"
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
