"""The rounds of a workspace as their folders tell: which there are, and which are unfinished."""

from typing import Any

from baal_ray import storage
from baal_ray.errors import ConfigError, UnfinishedRoundError
from baal_ray.workspace import is_round_id, round_uri, rounds_uri, stage_uri

# What a round makes: first the listings of its pool and targets, then a file for each stage.
_BEGUN = {"pool", "targets", "plan.json", "fit.json", "scores.json", "batch.json", "round.json"}
_OURS = _BEGUN | {"batch"}

# Rounds that an error names.
_NAMED = 5


def read_stage(workspace: str, round_id: str, stage: str) -> dict[str, Any] | None:
    """What a stage of a round left behind, None where it has not run.

    Raises:
        CorruptFileError: the file is rotten.
    """
    uri = stage_uri(workspace, round_id, stage)
    return storage.read_json(uri, _remedy(round_id, stage)) if storage.exists(uri) else None


def _remedy(round_id: str, stage: str) -> str:
    if stage in ("fit", "scores", "round"):
        return f"Delete it and run round {round_id} again: it is made again."
    return (
        f"Put back a whole copy of it; while the manifest has no picks of round {round_id}, you "
        "may delete the round's folder instead, and run it again."
    )


def finished_plans(workspace: str) -> dict[str, dict[str, Any]]:
    """The plans of the rounds that ran to their end, ordered as `finished_rounds`."""
    begun = {
        round_id: read_stage(workspace, round_id, "plan") or {}
        for round_id, holds in _folders(workspace).items()
        if "round.json" in holds
    }
    order = sorted(begun, key=lambda id: (begun[id].get("manifest_version", -1), id))
    return {round_id: begun[round_id] for round_id in order}


def finished_rounds(workspace: str) -> list[str]:
    """The rounds that ran to their end, in the order of the manifest's versions they began at."""
    return list(finished_plans(workspace))


def unfinished_rounds(workspace: str) -> list[str]:
    """The rounds that were begun and have not run to their end, sorted.

    A labelled set that was brought in is no round: its folder has a batch and nothing else.
    """
    folders = _folders(workspace)
    return sorted(
        id for id, holds in folders.items() if holds & _BEGUN and "round.json" not in holds
    )


def refuse_unfinished(workspace: str) -> None:
    """Raise UnfinishedRoundError if there are unfinished rounds."""
    unfinished = unfinished_rounds(workspace)
    if unfinished:
        raise UnfinishedRoundError(unfinished)


def _folders(workspace: str) -> dict[str, set[str]]:
    """What each round's folder holds, one level deep; whatever else lies there is passed over."""
    found: dict[str, set[str]] = {}
    for name in storage.walk_files(rounds_uri(workspace)):
        round_id, _, below = name.partition("/")
        found.setdefault(round_id, set()).add(below.partition("/")[0])
    return {id: holds for id, holds in found.items() if holds & _OURS and is_round_id(id)}


def check_round(workspace: str, round_id: str) -> None:
    """Refuse the name of a round that never began, nor was brought in as a labelled set.

    Raises:
        ConfigError: there is no such round.
    """
    if not storage.exists(round_uri(workspace, round_id)):
        there = ", ".join(sorted(_folders(workspace))[-_NAMED:]) or "none"
        raise ConfigError("round", [f"there is no round {round_id!r}; there are {there}"])
