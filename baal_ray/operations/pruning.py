"""Removal of what a workspace no longer needs: old models, their scores, and leftovers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich import filesize
from rich.table import Table

from baal_ray import storage
from baal_ray.manifest import Manifest
from baal_ray.storage.scratch import scratch_folders
from baal_ray.workspace import checkpoint_uri, fits_uri, manifest_uri, scores_uri
from baal_ray.workspace.records import Fingerprint, FitRecord
from baal_ray.workspace.rounds import finished_rounds, read_stage, unfinished_rounds
from baal_ray.workspace.stage_files import FitResult, Plan

_DAY_SECONDS = 24 * 3600

# For a damaged record.
_REMEDY = "Delete it; it is recreated when it is needed."


@dataclass(frozen=True)
class Removal:
    """Files of one kind that can be removed.

    Attributes:
        what: Short description of them.
        uris: URIs of files, and of folders that go with everything in them.
        bytes: Total size in bytes.
    """

    what: str
    uris: list[str]
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """Everything that can be removed from a workspace.

    Attributes:
        removals: The removals, in the order in which they must happen.
        waiting_for: Ids of unfinished rounds that have no model yet. All models and scores stay
            while such a round might still use an old model.
    """

    removals: list[Removal]
    waiting_for: list[str]

    def __rich__(self) -> Table:
        """Return the removals as a table on a console."""
        table = Table("what", "count", "size", "example", box=None)
        for removal in self.removals:
            count, size = str(len(removal.uris)), filesize.decimal(removal.bytes)
            table.add_row(removal.what, count, size, removal.uris[0])
        return table

    def run(self) -> None:
        """Remove everything. After a kill, the pruning can be planned and run again.

        Raises:
            StorageError: If something cannot be removed.
        """
        for removal in self.removals:
            for uri in removal.uris:
                storage.delete_tree(uri)


def plan_pruning(workspace: str, *, keep: int) -> Pruning:
    """Find what neither an unfinished round nor one of the last finished rounds needs.

    Acquisition batches always stay, because models are fitted on their images. A fit that belongs
    to no round, such as one by jobs/fit.py, stays too.

    Args:
        workspace: Workspace of a configuration.
        keep: Number of finished rounds, counted from the last, whose models and scores stay. It
            is at least 1, because the next night may need the last model again.

    Raises:
        StorageError: If the workspace cannot be read.
    """
    unfinished = unfinished_rounds(workspace)
    fits = {round_id: read_stage(workspace, round_id, FitResult) for round_id in unfinished}
    waiting_for = [round_id for round_id, fit in fits.items() if fit is None]
    checkpoints = [each.record.result.checkpoint for each in finished_rounds(workspace)]
    kept = {*checkpoints[-keep:], *(fit.checkpoint for fit in fits.values() if fit)}
    old = set() if waiting_for else {sha256 for sha256 in checkpoints if sha256} - kept
    fits_of_old = _fits(workspace, old)
    found = [
        # A fit's record goes before its model, so that no record names a model that is gone.
        ("fits of these models", fits_of_old),
        ("models", _models(workspace, old)),
        ("scores of these models", _scores(workspace, old)),
        ("epochs of finished fits", [] if waiting_for else list(_epochs(workspace, fits_of_old))),
        ("unfinished files older than a day", _unfinished_files(workspace)),
        (
            "files of manifest versions older than a week",
            _old_versions(workspace, unfinished),
        ),
    ]
    removals = [_removal(what, uris) for what, uris in found]
    return Pruning([removal for removal in removals if removal.uris], waiting_for)


def _models(workspace: str, old: set[str]) -> list[str]:
    uris = [checkpoint_uri(workspace, sha256) for sha256 in sorted(old)]
    return [uri for uri in uris if storage.exists(uri)]


def _fits(workspace: str, old: set[str]) -> list[str]:
    records = storage.list_files(fits_uri(workspace), "/fit.json")
    return [_folder(uri) for uri in records if FitRecord.read(uri, _REMEDY).checkpoint in old]


def _scores(workspace: str, old: set[str]) -> list[str]:
    folder = scores_uri(workspace)
    names = [name for name in storage.walk_files(folder) if name.endswith("/_fingerprint.json")]
    records = [storage.join(folder, name) for name in names]
    return [_folder(uri) for uri in records if Fingerprint.read(uri, _REMEDY).checkpoint in old]


def _epochs(workspace: str, fits: list[str]) -> Iterator[str]:
    """Yield what finished fits left beside their record, except fits that are removed whole."""
    for record in storage.list_files(fits_uri(workspace), "/fit.json"):
        folder = _folder(record)
        if folder not in fits:
            names = {name.split("/")[0] for name in storage.walk_files(folder)} - {"fit.json"}
            yield from (storage.join(folder, name) for name in sorted(names))


def _unfinished_files(workspace: str) -> list[str]:
    # If a clock is wrong by a day, a writer loses its file and its round must be run again.
    before = time.time() - _DAY_SECONDS
    found = {
        **storage.unfinished_files(workspace),
        **scratch_folders(workspace),
        **scratch_folders(manifest_uri(workspace)),
    }
    return sorted(uri for uri, begun in found.items() if begun < before)


def _old_versions(workspace: str, unfinished: list[str]) -> list[str]:
    plans = [read_stage(workspace, round_id, Plan) for round_id in unfinished]
    keep = [plan.manifest_version for plan in plans if plan]
    manifest = manifest_uri(workspace)
    unneeded = Manifest(manifest).unneeded_files(keep=keep)  # some may be gone already
    there = storage.list_files(manifest, ".parquet")
    return [uri for uri in there if storage.name(uri) in unneeded]


def _removal(what: str, uris: list[str]) -> Removal:
    return Removal(what, uris, sum(map(storage.size, uris)))


def _folder(uri: str) -> str:
    return uri.rsplit("/", 1)[0]
