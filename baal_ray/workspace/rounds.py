"""The rounds of a workspace, and the results of their stages."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from baal_ray import storage
from baal_ray.errors import ConfigError, UnfinishedRoundError
from baal_ray.workspace.layout import is_round_id, round_uri, rounds_uri, stage_uri
from baal_ray.workspace.stage_files import (
    CandidatesResult,
    FitResult,
    Plan,
    RoundRecord,
    ScoresResult,
    StageFile,
    StageResult,
)

logger = logging.getLogger(__name__)

File = TypeVar("File", bound=StageFile)
Result = TypeVar("Result", bound=StageResult)

# Files and folders of a round: first the listings of its pool and targets, then those of each
# stage.
_BEGUN = {"pool", "targets", "plan.json", "fit.json", "scores.json", "candidates.json"}
_BEGUN |= {"candidates", "batch.json", "round.json"}
_OURS = _BEGUN | {"batch"}

# Stages whose results are deleted if a file that one of them names is lost.
_MADE_AGAIN = {kind.STAGE for kind in (FitResult, ScoresResult, CandidatesResult)}

# Most rounds that an error names.
_NAMED = 5


def read_stage(workspace: str, round_id: str, kind: type[File], attempt: int = 1) -> File | None:
    """Read a file of a round.

    Args:
        workspace: URI of the workspace.
        round_id: Name of the round.
        kind: The file's type, which names the stage.
        attempt: Number of the attempt at a stage that may be repeated.

    Returns:
        Its content; None if the stage has not run.

    Raises:
        LostFileError: If the file is damaged.
        FormatError: If another version wrote it.
    """
    uri = stage_uri(workspace, round_id, attempted(kind.STAGE, attempt))
    if not storage.exists(uri):
        return None
    return kind.read(
        uri,
        f"If round {round_id} is not finished, run it again, which recreates the file. Otherwise "
        "restore the file from a backup, or delete the round's round.json and run the round "
        "again, which changes no pick.",
    )


def attempted(stage: str, attempt: int) -> str:
    """Return the name of a stage's file for the n-th attempt at it."""
    return stage if attempt == 1 else f"{stage}-{attempt}"


@dataclass(frozen=True)
class FinishedRound:
    """A round that ran to its end.

    Attributes:
        plan: Its plan.
        record: Its record.
    """

    plan: Plan
    record: RoundRecord


def read_finished(workspace: str, round_id: str) -> FinishedRound | None:
    """Read a round that ran to its end; None if there is no such round.

    Raises:
        LostFileError: If a file is damaged.
        FormatError: If another version wrote one.
    """
    plan = read_stage(workspace, round_id, Plan)
    record = read_stage(workspace, round_id, RoundRecord) if plan else None
    return FinishedRound(plan, record) if plan and record else None


def finished_rounds(workspace: str) -> list[FinishedRound]:
    """Return the rounds that ran to their end, by the version of the manifest they began at."""
    with_record = (id for id, holds in _folders(workspace).items() if "round.json" in holds)
    found = [read_finished(workspace, round_id) for round_id in sorted(with_record)]
    return sorted(filter(None, found), key=lambda done: done.plan.manifest_version)


def unfinished_rounds(workspace: str) -> list[str]:
    """Return the rounds that were begun and have not run to their end, sorted.

    An imported labelled set is not a round: its folder has a batch and nothing else.
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
    """Return the names in each round's folder, one level deep. Other folders are ignored."""
    found: dict[str, set[str]] = {}
    for name in storage.walk_files(rounds_uri(workspace)):
        round_id, _, below = name.partition("/")
        found.setdefault(round_id, set()).add(below.partition("/")[0])
    return {id: holds for id, holds in found.items() if holds & _OURS and is_round_id(id)}


def check_round(workspace: str, round_id: str) -> None:
    """Refuse a name that belongs to no round and no imported labelled set.

    Raises:
        ConfigError: If there is no such round.
    """
    if not storage.exists(round_uri(workspace, round_id)):
        there = ", ".join(sorted(_folders(workspace))[-_NAMED:]) or "none"
        raise ConfigError("round", [f"there is no round {round_id!r}; there are {there}"])


class StageResults:
    """The results of a round's stages.

    Attributes:
        running: The name of the stage that is running, or is the next to run.
    """

    def __init__(self, workspace: str, round_id: str) -> None:
        self.running = Plan.STAGE
        self._workspace = workspace
        self._round_id = round_id

    def uri(self, kind: type[StageFile], attempt: int = 1) -> str:
        """Return the location of a stage's file, whether or not it is there."""
        return stage_uri(self._workspace, self._round_id, attempted(kind.STAGE, attempt))

    def read(self, kind: type[File], attempt: int = 1) -> File | None:
        """Read a stage's file; arguments, result and errors as for `read_stage`."""
        return read_stage(self._workspace, self._round_id, kind, attempt)

    def once(self, kind: type[Result], run: Callable[[], Result], attempt: int = 1) -> Result:
        """Return the stage's result if it is there; otherwise run the stage and write it.

        The files that a result names are checked when they are read. If one is lost, `discard`
        makes the stages run again.
        """
        stage = self.running = attempted(kind.STAGE, attempt)
        found = self.read(kind, attempt)
        if found is not None and found.complete:
            logger.info("%s: done before", stage)
            return found
        if found is not None:
            storage.delete(self.uri(kind, attempt))
        begun = time.monotonic()
        result = run()
        result = result.model_copy(update={"seconds": round(time.monotonic() - begun, 3)})
        logger.info("%s: %s", stage, ", ".join([f"{result.seconds:,.1f} s", *result.figures()]))
        return self.create(result, attempt)

    def discard(self, *, plan: bool = False) -> None:
        """Delete the results of the round, so that its stages run again.

        Each makes only what is missing. Batches stay, because a driver on another machine may be
        committing one.

        Args:
            plan: Whether the plan is to be made again, too.
        """
        folder = round_uri(self._workspace, self._round_id)
        for uri in storage.list_files(folder, ".json"):
            stage = storage.name(uri).removesuffix(".json").partition("-")[0]
            if stage in _MADE_AGAIN or (plan and stage == Plan.STAGE):
                storage.delete(uri)

    def create(self, content: File, attempt: int = 1) -> File:
        """Write a file; if a driver on another machine wrote it first, return that one's."""
        if storage.create_if_absent(self.uri(type(content), attempt), content.to_json()):
            return content
        return self.read(type(content), attempt) or content
