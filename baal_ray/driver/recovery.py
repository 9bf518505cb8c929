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
        self,
        workspace: str,
        round_id: str,
        restore_batches: Callable[[], object],
        list_again: Callable[[], bool],
    ) -> None:
        """Note the round.

        Args:
            workspace: URI of the workspace.
            round_id: Name of the round.
            restore_batches: Function that fetches lost images of acquisition batches again.
            list_again: Function that writes the listings of the plan again, and returns whether
                they are as planned.
        """
        self._workspace = workspace.rstrip("/")
        self._folder = round_uri(workspace, round_id)
        self._results = StageResults(workspace, round_id)
        self._restore_batches = restore_batches
        self._list_again = list_again

    def run(self, stages: Callable[[], Result]) -> Result:
        """Run stages of the round, and run them again if a file that they need is lost.

        Raises:
            LostFileError: If a file is lost that was made again before.
        """
        lost: set[str] = set()
        uri = None
        while True:
            try:
                if uri is not None:
                    self._make_way(uri)
                    lost.add(uri)
                    uri = None
                return stages()
            except Exception as error:
                fault = our_error(error)
                if not isinstance(fault, LostFileError):
                    raise
                if fault.uri in lost or len(lost) == _MOST_LOST:
                    raise
                logger.warning("%s. The stages run again; each makes only what is missing", fault)
                uri = fault.uri
                del fault
            gc.collect()  # the error and its frames refer to each other, and hold actors

    def _make_way(self, uri: str) -> None:
        """Remove what keeps the stages from making a lost file again."""
        folder = uri.rsplit("/", 1)[0]
        plan = self._results.uri(Plan)
        if folder == self._folder and uri != plan:
            storage.delete(uri)
        elif folder.endswith("/batch"):
            self._restore_batches()
        elif folder in [storage.join(self._folder, name) for name in _LISTINGS]:
            self._results.discard(plan=not self._list_again())
        else:
            if self._is_of_workspace(uri) and uri != plan:
                storage.delete(uri)
            self._results.discard(plan=uri == plan)

    def _is_of_workspace(self, uri: str) -> bool:
        rounds = rounds_uri(self._workspace)
        return uri.startswith(f"{self._workspace}/") and not uri.startswith(f"{rounds}/")
