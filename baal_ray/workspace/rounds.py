"""The rounds of a workspace: which there are, and what their stages left behind."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from baal_ray import storage
from baal_ray.errors import ConfigError, UnfinishedRoundError
from baal_ray.workspace.places import is_round_id, round_uri, rounds_uri, stage_uri

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


logger = logging.getLogger(__name__)

Result = dict[str, Any]


class StageResults:
    """A result for each stage of a round that has run.

    Attributes:
        running: the stage that runs, or is the next to run.
    """

    def __init__(self, workspace: str, round_id: str) -> None:
        self.running = "plan"
        self._workspace = workspace
        self._round_id = round_id

    def uri(self, stage: str) -> str:
        """Where a stage's result is, or will be."""
        return stage_uri(self._workspace, self._round_id, stage)

    def read(self, stage: str) -> Result | None:
        """A stage's result, None where it has not run.

        Raises:
            CorruptFileError: the file is rotten.
        """
        return read_stage(self._workspace, self._round_id, stage)

    def once(self, stage: str, run: Callable[[], Result]) -> Result:
        """The result that is there, else the one that `run` gives now, with its `seconds`."""
        self.running = stage
        result = self.read(stage)
        if result is not None:
            logger.info("%s: done before", stage)
            return result
        begun = time.monotonic()
        result = {**run(), "seconds": round(time.monotonic() - begun, 3)}
        logger.info("%s", _line(stage, result))
        return self.create(stage, result)

    def create(self, stage: str, result: Result) -> Result:
        """Write a result down, unless a driver on another machine was first: then take that."""
        data = json.dumps(result, indent=2, ensure_ascii=False).encode()
        created = storage.create_if_absent(self.uri(stage), data)
        return result if created else self.read(stage) or result


def _line(stage: str, result: Result) -> str:
    """What a stage came to, for the log."""
    seconds = result["seconds"]
    told = [f"{stage}: {seconds:,.1f} s"]
    counts = ("labels", "scored", "unreadable", "acquired")
    told += [f"{result[key]:,} {key}" for key in counts if result.get(key)]
    rows = result.get("scored") or sum(of["scored"] for of in result.get("stages", []))
    if rows and seconds:
        told.append(f"{rows / seconds:,.1f} images a second")
    told += [f"{name} {value:.4g}" for name, value in result.get("metrics", {}).items()]
    return ", ".join(told)
