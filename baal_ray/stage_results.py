"""What the stages of a round come to, each written down once in the round's folder."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from baal_ray import storage
from baal_ray.rounds import read_stage
from baal_ray.workspace import stage_uri

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
