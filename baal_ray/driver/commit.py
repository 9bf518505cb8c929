"""Attempts at an acquisition batch, until one is in the manifest."""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import count, takewhile

import pyarrow as pa

from baal_ray import storage
from baal_ray.errors import AlreadyAcquiredError, LostFileError, ManifestError
from baal_ray.manifest import Manifest
from baal_ray.workspace import batch_uri, manifest_uri
from baal_ray.workspace.batches import batch_files, read_batch
from baal_ray.workspace.rounds import StageResults
from baal_ray.workspace.stage_files import BatchResult

logger = logging.getLogger(__name__)


class Commit:
    """The commit of a round's batch, made exactly once.

    Each attempt has its own files. None is deleted or replaced before the round is committed,
    because a driver on another machine may be committing that attempt.
    """

    def __init__(self, workspace: str, round_id: str, results: StageResults) -> None:
        self._manifest = Manifest(manifest_uri(workspace))
        self._round_id = round_id
        self._results = results
        self._folder = batch_uri(workspace, round_id)

    def acquire(
        self, pick: Callable[[int], BatchResult], restore: Callable[[pa.Table], BatchResult]
    ) -> tuple[int, BatchResult]:
        """Pick and commit a batch. The next best replace picks that another round has taken.

        Args:
            pick: Function that picks the batch of the n-th attempt, from 1, and writes its files.
            restore: Function that writes the files of a batch that was committed and lost, given
                its rows in the manifest.

        Returns:
            The number of the attempt that is in the manifest, and its batch.

        Raises:
            ManifestError: If the manifest refuses the batch.
            StorageError: If a batch that was committed and lost cannot be restored.
        """
        refused = 0
        while True:
            committed = self._manifest.rows(round_id=self._round_id)
            if len(committed):
                return self._attempt_of(committed) or self._restored(committed, restore)
            attempt = max(self._last_attempt(), refused + 1)
            picked_before = storage.exists(self._results.uri(BatchResult, attempt))
            try:
                batch = pick(attempt)
                self._manifest.acquire(read_batch(self._files(batch)), self._round_id)
            except LostFileError as error:
                if not picked_before or not self._is_of_batch(error.uri, attempt):
                    raise
                logger.warning("%s. The batch is picked again", error)
                refused = attempt
            except AlreadyAcquiredError as error:
                logger.warning("%s", error)
                refused = attempt
            except ManifestError:
                if not len(self._manifest.rows(round_id=self._round_id)):
                    raise  # otherwise another machine has committed this round in the meantime
            else:
                return attempt, batch

    def delete_strays(self, batch: BatchResult) -> None:
        """Delete the files of the batch's folder that a kill or a refused attempt left there."""
        for file in batch_files(self._folder):
            if storage.name(file) not in batch.files:
                storage.delete(file)

    def _is_of_batch(self, uri: str, attempt: int) -> bool:
        """Return whether a file belongs to the batch of an attempt."""
        in_folder = uri.rsplit("/", 1)[0] == self._folder
        return in_folder or uri == self._results.uri(BatchResult, attempt)

    def _last_attempt(self) -> int:
        """Return the number of attempts so far, all refused or lost except perhaps the last."""
        there = (storage.exists(self._results.uri(BatchResult, n)) for n in count(1))
        return sum(takewhile(bool, there))

    def _attempt_of(self, committed: pa.Table) -> tuple[int, BatchResult] | None:
        """Return the attempt whose picks are in the manifest, if its files are whole."""
        ids = set(committed["id"].to_pylist())
        for attempt in range(self._last_attempt(), 0, -1):
            with suppress(LostFileError):
                batch = self._results.read(BatchResult, attempt)
                if batch and ids <= set(read_batch(self._files(batch))["id"].to_pylist()):
                    return attempt, batch
        return None

    def _restored(
        self, committed: pa.Table, restore: Callable[[pa.Table], BatchResult]
    ) -> tuple[int, BatchResult]:
        attempt = self._last_attempt() + 1
        logger.warning("the batch in the manifest is lost here: its images are fetched again")
        return attempt, self._results.create(restore(committed), attempt)

    def _files(self, batch: BatchResult) -> list[str]:
        return [storage.join(self._folder, name) for name in batch.files]


def restored(committed: pa.Table, files: list[str]) -> BatchResult:
    """Return the result of a batch that was made again from its rows in the manifest.

    Args:
        committed: Its rows in the manifest.
        files: Names of its files.
    """
    rules = Counter(committed["rule"].to_pylist())
    random = rules.pop("random", 0)
    return BatchResult(
        acquired=len(committed),
        random=random,
        rule=next(iter(rules), "random"),
        stability=None,
        files=files,
    )
