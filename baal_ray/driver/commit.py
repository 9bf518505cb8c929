"""Attempts at an acquisition batch, until one is in the manifest."""

import logging
from collections.abc import Callable
from itertools import count, takewhile

from baal_ray import storage
from baal_ray.errors import AlreadyAcquiredError, ManifestError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.workspace import batch_uri, manifest_uri
from baal_ray.workspace.batches import read_batch
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

    def acquire(self, pick: Callable[[int], BatchResult]) -> tuple[int, BatchResult]:
        """Pick and commit a batch. The next best replace picks that another round has taken.

        Args:
            pick: Function that picks the batch of the n-th attempt, from 1, and writes its files.

        Returns:
            The number of the attempt that is in the manifest, and its batch.

        Raises:
            ManifestError: If the manifest refuses the batch.
            StorageError: If the manifest has picks of this round that match none of its batches.
        """
        refused = 0
        while True:
            attempt = self._committed_attempt() or max(self._last_attempt(), refused + 1)
            batch = pick(attempt)
            try:
                self._manifest.acquire(read_batch(self._files(batch)), self._round_id)
            except AlreadyAcquiredError as error:
                logger.warning("%s", error)
                refused = attempt
            except ManifestError:
                if self._committed_attempt() in (None, attempt):
                    raise  # otherwise another machine has committed this round in the meantime
            else:
                return attempt, batch

    def delete_strays(self, batch: BatchResult) -> None:
        """Delete the files of the batch's folder that a kill or a refused attempt left there."""
        for file in set(storage.list_files(self._folder)) - set(self._files(batch)):
            if storage.is_named_by_sha256(file):
                storage.delete(file)

    def _last_attempt(self) -> int:
        """Return the number of attempts so far, all refused except perhaps the last."""
        there = (storage.exists(self._results.uri(BatchResult, n)) for n in count(1))
        return sum(takewhile(bool, there))

    def _committed_attempt(self) -> int | None:
        """Return the attempt whose picks are in the manifest, if this round's are there."""
        committed = set(self._manifest.rows(round_id=self._round_id)["id"].to_pylist())
        if not committed:
            return None
        for attempt in range(self._last_attempt(), 0, -1):
            batch = self._results.read(BatchResult, attempt)
            files = self._files(batch) if batch else []
            # Once the round is committed, the files of other attempts are removed.
            there = all(map(storage.exists, files))
            if there and set(read_batch(files)["id"].to_pylist()) == committed:
                return attempt
        raise StorageError(
            f"round {self._round_id} is in the manifest with {len(committed)} picks, and no batch "
            f"in {self._folder} has exactly these; restore its batch.json and batch/"
        )

    def _files(self, batch: BatchResult) -> list[str]:
        return [storage.join(self._folder, name) for name in batch.files]
