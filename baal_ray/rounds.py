"""The rounds of a workspace as their folders tell: which there are, and which are unfinished."""

import json
from typing import Any

from baal_ray import storage
from baal_ray.errors import UnfinishedRoundError
from baal_ray.workspace import round_uri, rounds_uri


def read_stage(workspace: str, round_id: str, stage: str) -> dict[str, Any] | None:
    """What a stage of a round left behind, None where it has not run."""
    uri = storage.join(round_uri(workspace, round_id), f"{stage}.json")
    found: dict[str, Any] | None = json.loads(storage.read(uri)) if storage.exists(uri) else None
    return found


def round_ids(workspace: str) -> list[str]:
    """All of them, labelled sets that were brought in too, sorted."""
    return sorted(_folders(workspace))


def finished_rounds(workspace: str) -> list[str]:
    """The rounds that ran to their end, in the order of the manifest's versions they began at."""
    begun = {
        round_id: read_stage(workspace, round_id, "plan") or {}
        for round_id, holds in _folders(workspace).items()
        if "round.json" in holds
    }
    return sorted(begun, key=lambda id: (begun[id].get("manifest_version", -1), id))


def unfinished_rounds(workspace: str) -> list[str]:
    """The rounds that were begun and have not run to their end, sorted.

    A labelled set that was brought in is no round: its folder has a batch and nothing else.
    """
    folders = _folders(workspace)
    return sorted(
        id for id, holds in folders.items() if holds - {"batch"} and "round.json" not in holds
    )


def refuse_unfinished(workspace: str) -> None:
    """Raise UnfinishedRoundError if there are unfinished rounds."""
    unfinished = unfinished_rounds(workspace)
    if unfinished:
        raise UnfinishedRoundError(unfinished)


def _folders(workspace: str) -> dict[str, set[str]]:
    """What each round's folder holds, one level deep."""
    found: dict[str, set[str]] = {}
    for name in storage.walk_files(rounds_uri(workspace)):
        round_id, _, below = name.partition("/")
        found.setdefault(round_id, set()).add(below.partition("/")[0])
    return found
