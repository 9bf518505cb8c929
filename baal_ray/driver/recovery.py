"""The recovery of a round from files of its workspace that are missing or damaged."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from baal_ray import storage
from baal_ray.errors import LostFileError, our_error
from baal_ray.workspace import round_uri, rounds_uri
from baal_ray.workspace.rounds import StageResults
from baal_ray.workspace.stage_files import Plan

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# A disk on which more files than this are lost during one round is not to be trusted.
_MOST_LOST = 10

# Folders of a round that hold what its plan lists.
_LISTINGS = ("pool", "targets")


class Recovery:
    """The rule for files that are missing or damaged: the stages run again.

    Whoever reads a file checks it. Each stage makes only what is missing, so the picks are those
    of a round in which nothing was lost.
    """

    def __init__(
        self, workspace: str, round_id: str, restore_batches: Callable[[], object]
    ) -> None:
        """Note the round.

        Args:
            workspace: URI of the workspace.
            round_id: Name of the round.
            restore_batches: Function that fetches lost images of acquisition batches again.
        """
        self._workspace = workspace
        self._folder = round_uri(workspace, round_id)
        self._results = StageResults(workspace, round_id)
        self._restore_batches = restore_batches

    def run(self, stages: Callable[[], Result]) -> Result:
        """Run stages of the round, and run them again if a file that they need is lost.

        Raises:
            LostFileError: If a file is lost that was made again before.
        """
        lost: set[str] = set()
        while True:
            try:
                return stages()
            except Exception as error:
                fault = our_error(error)
                if not isinstance(fault, LostFileError):
                    raise
                if fault.uri in lost or len(lost) == _MOST_LOST:
                    raise fault from error
            gc.collect()  # the error and its frames refer to each other, and hold actors
            lost.add(fault.uri)
            logger.warning("%s. The stages run again; each makes only what is missing", fault)
            self._make_way(fault.uri)

    def _make_way(self, uri: str) -> None:
        """Remove what keeps the stages from making a lost file again."""
        folder = uri.rsplit("/", 1)[0]
        plan = self._results.uri(Plan)
        listings = [storage.join(self._folder, name) for name in _LISTINGS]
        if folder.endswith("/batch"):
            self._restore_batches()
        elif folder == self._folder and uri != plan:
            storage.delete(uri)
        else:
            if not uri.startswith(f"{rounds_uri(self._workspace)}/"):
                storage.delete(uri)
            self._results.discard(plan=folder in listings or uri == plan)
