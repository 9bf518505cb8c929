"""What a workspace does not need any more: old models, their scores, and leftovers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from baal_ray import storage
from baal_ray.manifest import Manifest
from baal_ray.storage.scratch import scratch_folders
from baal_ray.workspace import checkpoint_uri, fits_uri, manifest_uri, scores_uri
from baal_ray.workspace.records import Fingerprint, FitRecord
from baal_ray.workspace.rounds import finished_rounds, read_stage, unfinished_rounds
from baal_ray.workspace.stages import FitResult, Plan

_DAY_SECONDS = 24 * 3600

# For a damaged record.
_REMEDY = "Delete it: when it is needed again it is made again."


@dataclass(frozen=True)
class Removal:
    """Something that can go.

    Attributes:
        what: in a few words.
        uris: files, and folders with all that is in them.
        bytes: their size.
    """

    what: str
    uris: list[str]
    bytes: int


@dataclass(frozen=True)
class Pruning:
    """What can go from a workspace.

    Attributes:
        removals: in the order in which it must go.
        waiting_for: unfinished rounds that have no model yet; while they might take an old one,
            all models and scores stay.
    """

    removals: list[Removal]
    waiting_for: list[str]

    def run(self) -> None:
        """Remove it; killed on the way, it can be planned and run again.

        Raises:
            StorageError: something cannot be removed.
        """
        for removal in self.removals:
            for uri in removal.uris:
                storage.delete_tree(uri)


def plan_pruning(workspace: str, *, keep: int) -> Pruning:
    """Find what no unfinished round, nor any of the last finished ones, needs.

    Acquisition batches always stay: they are the images that models are fitted on. So does a fit
    that belongs to no round, as jobs/fit.py makes them.

    Args:
        workspace: of a configuration.
        keep: of how many finished rounds, the last ones, models and scores stay; at least 1, as
            the next night may need the last one again.

    Raises:
        StorageError: the workspace cannot be read.
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
        ("unfinished files, older than a day", _unfinished_files(workspace)),
        (
            "files of the manifest's versions older than a week",
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
    """Whatever finished fits left beside their record, except fits that are removed whole."""
    for record in storage.list_files(fits_uri(workspace), "/fit.json"):
        folder = _folder(record)
        if folder not in fits:
            names = {name.split("/")[0] for name in storage.walk_files(folder)} - {"fit.json"}
            yield from (storage.join(folder, name) for name in sorted(names))


def _unfinished_files(workspace: str) -> list[str]:
    # A clock that is wrong by a day costs a writer its file, and its round is run again.
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
