"""Removal of what a workspace no longer needs: old models, their scores, and leftovers."""

import time
from collections.abc import Callable
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

# Files by which the folders of fits and of scores are found. Each goes last in its folder, so that
# a removal that was killed can be found again.
_MARKERS = ("fit.json", "_fingerprint.json")

# For a damaged record.
_REMEDY = "Delete the folder that it lies in; what is needed is made again."


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
        workspace: The workspace.
        keep: The number of finished rounds whose models and scores stay.
        removals: The removals, in the order in which they must happen.
        waiting_for: Ids of unfinished rounds that have no model yet. All models and scores stay
            while such a round might still use an old model.
    """

    workspace: str
    keep: int
    removals: list[Removal]
    waiting_for: list[str]

    def __rich__(self) -> Table:
        """Return the removals as a table on a console."""
        table = Table("what", "count", "size", "example", box=None)
        for removal in self.removals:
            count, size = str(len(removal.uris)), filesize.decimal(removal.bytes)
            table.add_row(removal.what, count, size, removal.uris[0])
        return table

    def run(self) -> list[Removal]:
        """Remove everything that is still unneeded. After a kill, plan and run the pruning again.

        The plans of all rounds are read again before each kind of files is removed, so a round
        that has begun since the pruning was planned keeps what it needs. A round that begins in
        the very seconds in which one kind is removed may still miss a file of an old model.

        Returns:
            The removals that happened.

        Raises:
            StorageError: If something cannot be removed.
        """
        done = []
        for planned in self.removals:
            unneeded = set(_UNNEEDED[planned.what](_Needs.read(self.workspace, self.keep)))
            uris = [uri for uri in planned.uris if uri in unneeded]
            if uris:
                done.append(planned if uris == planned.uris else _removal(planned.what, uris))
            for uri in uris:
                storage.delete_tree(uri, last=_MARKERS)
        return done


def plan_pruning(workspace: str, *, keep: int) -> Pruning:
    """Find what neither an unfinished round nor one of the last finished rounds needs.

    Acquisition batches always stay, because models are fitted on their images. A fit that belongs
    to no round, such as one by jobs/fit.py, stays too.

    Args:
        workspace: Workspace of a configuration.
        keep: Number of finished rounds, counted from the last, whose models and scores stay. It
            is at least 1, because the next night may need the last model again.

    Raises:
        CorruptFileError: If a record is damaged, or names something outside of the workspace.
        StorageError: If the workspace cannot be read.
    """
    needs = _Needs.read(workspace, keep)
    removals = [_removal(what, find(needs)) for what, find in _UNNEEDED.items()]
    return Pruning(workspace, keep, [it for it in removals if it.uris], needs.waiting_for)


@dataclass(frozen=True)
class _Needs:
    """The needs of a workspace's rounds, and the models that they need no longer.

    Attributes:
        workspace: The workspace.
        waiting_for: As in `Pruning`.
        old: The models that no round needs any longer.
        versions: The versions of the manifest that unfinished rounds began at.
    """

    workspace: str
    waiting_for: list[str]
    old: set[str]
    versions: list[int]

    @classmethod
    def read(cls, workspace: str, keep: int) -> "_Needs":
        unfinished = unfinished_rounds(workspace)
        plans = [read_stage(workspace, round_id, Plan) for round_id in unfinished]
        fits = {round_id: read_stage(workspace, round_id, FitResult) for round_id in unfinished}
        waiting_for = [round_id for round_id, fit in fits.items() if fit is None]
        checkpoints = [each.record.result.checkpoint for each in finished_rounds(workspace)]
        kept = {*checkpoints[-keep:], *(fit.checkpoint for fit in fits.values() if fit)}
        old = set() if waiting_for else {sha256 for sha256 in checkpoints if sha256} - kept
        return cls(workspace, waiting_for, old, [plan.manifest_version for plan in plans if plan])


def _models(needs: _Needs) -> list[str]:
    uris = [checkpoint_uri(needs.workspace, sha256) for sha256 in sorted(needs.old)]
    return [uri for uri in uris if storage.exists(uri)]


def _fits(needs: _Needs) -> list[str]:
    records = storage.list_files(fits_uri(needs.workspace), "/fit.json")
    return [
        _folder(uri) for uri in records if FitRecord.read(uri, _REMEDY).checkpoint in needs.old
    ]


def _scores(needs: _Needs) -> list[str]:
    folder = scores_uri(needs.workspace)
    names = [name for name in storage.walk_files(folder) if name.endswith("/_fingerprint.json")]
    records = [storage.join(folder, name) for name in names]
    return [
        _folder(uri) for uri in records if Fingerprint.read(uri, _REMEDY).checkpoint in needs.old
    ]


def _epochs(needs: _Needs) -> list[str]:
    """Return what finished fits left beside their record, except fits that are removed whole."""
    if needs.waiting_for:
        return []
    found, whole = [], _fits(needs)
    for record in storage.list_files(fits_uri(needs.workspace), "/fit.json"):
        folder = _folder(record)
        if folder not in whole:
            names = {name.split("/")[0] for name in storage.walk_files(folder)} - {"fit.json"}
            found += [storage.join(folder, name) for name in sorted(names)]
    return found


def _unfinished_files(needs: _Needs) -> list[str]:
    # If a clock is wrong by a day, a writer loses its file and its round must be run again.
    before = time.time() - _DAY_SECONDS
    found = {
        **storage.unfinished_files(needs.workspace),
        **scratch_folders(needs.workspace),
        **scratch_folders(manifest_uri(needs.workspace)),
    }
    return sorted(uri for uri, begun in found.items() if begun < before)


def _old_versions(needs: _Needs) -> list[str]:
    manifest = manifest_uri(needs.workspace)
    unneeded = Manifest(manifest).unneeded_files(keep=needs.versions)  # some may be gone already
    there = storage.list_files(manifest, ".parquet")
    return [uri for uri in there if storage.name(uri) in unneeded]


def _removal(what: str, uris: list[str]) -> Removal:
    return Removal(what, uris, sum(map(storage.size, uris)))


def _folder(uri: str) -> str:
    return uri.rsplit("/", 1)[0]


# The kinds of files, in the order in which they go. A fit's record goes before its model, so that
# no record names a model that is gone.
_UNNEEDED: dict[str, Callable[[_Needs], list[str]]] = {
    "fits of these models": _fits,
    "models": _models,
    "scores of these models": _scores,
    "epochs of finished fits": _epochs,
    "unfinished files older than a day": _unfinished_files,
    "files of manifest versions older than a week": _old_versions,
}
