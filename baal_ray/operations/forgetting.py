"""Forget images everywhere in a workspace: its manifest, batches, scores and listings.

The manifest goes first. From then on nothing asks for the images, so the workspace is consistent
even if only half of the work is done. Each run looks only for what is left, so it can be killed
and run again. Files are never changed, but replaced by files without the images.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.table import Table

from baal_ray import storage
from baal_ray.errors import CorruptFileError, LostFileError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.storage.parquet import open_parquet, open_with_footer, publish_table
from baal_ray.workspace import manifest_uri, rounds_uri, scores_uri
from baal_ray.workspace.records import encoded, read_fields
from baal_ray.workspace.rounds import refuse_unfinished

#: The consequences of forgetting images, as the command line shows them.
CONSEQUENCES = """\
This cannot be undone. Earlier versions of the manifest that held the images can no longer be read.
Models that were fitted on the images keep what they learned. The next fit leaves the images out;
after it, `baal-ray prune --keep 1` removes the older models.
The pool itself is never changed: remove the images from {pool} too, or the next round scores them
again."""


@dataclass(frozen=True)
class FileWithImages:
    """A file of the workspace that holds some of the images.

    Attributes:
        uri: URI of the file.
        round_folder: Folder of the round that names the file, or None.
        ids: Ids of the images that the file holds.
        rotten: Whether it is a file of scores that cannot be read. Forgetting deletes such a
            file, and its images are scored again.
    """

    uri: str
    round_folder: str | None
    ids: list[str]
    rotten: bool = False


def table_of(traces: Iterable[FileWithImages]) -> Table:
    """Return traces as a table on a console."""
    table = Table("file", "images", box=None)
    for trace in traces:
        table.add_row(trace.uri, str(len(trace.ids)))
    return table


def find_traces(workspace: str, ids: Sequence[str]) -> list[FileWithImages]:
    """Find the files that hold any of the images. Only the column of ids is read from each.

    The result includes the manifest's files, including those of its earlier versions, and pages
    that name an image.

    Raises:
        StorageError: If a file cannot be read, because its content is then unknown.
    """
    wanted = pa.array(ids, pa.string())
    scores = f"{scores_uri(workspace)}/"
    found = []
    for uri, round_folder in _files(workspace):
        try:
            found.append(FileWithImages(uri, round_folder, _ids_in(uri, wanted)))
        except StorageError as error:
            if not storage.exists(uri):
                continue  # a writer that lost to another `forget` has just deleted it
            if not uri.startswith(scores) or isinstance(error.__cause__, OSError):
                raise
            found.append(FileWithImages(uri, None, [], rotten=True))
    return [trace for trace in found if trace.ids or trace.rotten]


def forget_images(workspace: str, ids: Sequence[str]) -> list[FileWithImages]:
    """Remove images from everything in the workspace. What models learned from them stays.

    Returns:
        The files that held the images, except those of the manifest itself.

    Raises:
        UnfinishedRoundError: If a round is not finished. If the round began at this very moment,
            the images are already out of the manifest, and the rest has to wait for its end.
        StorageError: If a file cannot be read or written. The function can be run again.
    """
    refuse_unfinished(workspace)
    for trace in find_traces(workspace, ids):  # report a damaged file before any change
        _check_whole(trace)
    manifest = Manifest(manifest_uri(workspace))
    manifest.forget(pa.table({"id": pa.array(ids, pa.string())}))
    # A round planned before the deletion would need versions of the manifest that go now.
    refuse_unfinished(workspace)
    traces = find_traces(workspace, ids)
    for trace in traces:
        if storage.is_named_by_sha256(trace.uri) and not trace.rotten:
            try:
                _replace(trace)
            except LostFileError:  # scores: their images are scored again
                if trace.round_folder is not None:
                    raise
        storage.delete(trace.uri)
    # A merge of the manifest that began earlier may write one more file. It fails, and whoever
    # made it deletes that file: see `baal_ray.manifest.data_files.delete_forgotten`.
    for file in storage.unfinished_files(workspace):  # these may hold the images, too
        storage.delete(file)
    return traces


def _files(workspace: str) -> Iterator[tuple[str, str | None]]:
    """Yield every file that may hold ids, with the folder of the round that names it, or None."""
    rounds, scores = rounds_uri(workspace), scores_uri(workspace)
    for folder in (rounds, scores):
        for name in storage.walk_files(folder):
            if name.endswith(".parquet") and storage.is_named_by_sha256(name):
                of_round = storage.join(rounds, name.partition("/")[0])
                yield storage.join(folder, name), of_round if folder == rounds else None
            elif _is_page(name):
                yield storage.join(folder, name), None
    # Files of failed merges belong to no version, so list the folder instead.
    for file in storage.list_files(manifest_uri(workspace), ".parquet"):
        yield file, None


def _check_whole(trace: FileWithImages) -> None:
    if trace.round_folder is not None:
        try:
            storage.read_verified(trace.uri)
        except CorruptFileError as error:
            raise CorruptFileError(
                f"{trace.uri} is damaged, so it cannot be replaced by a file without the images; "
                "nothing was changed. Restore an intact copy of it, or delete it: the next "
                "fit on its images fetches them from the pool again"
            ) from error


def _is_page(name: str) -> bool:
    """Return whether a file is the report of a round, which is deleted and can be made again."""
    return name.endswith("/report.html")


def _ids_in(uri: str, wanted: pa.Array) -> list[str]:
    if _is_page(uri):
        page = storage.read(uri).decode(errors="replace")
        return [image_id for image_id in wanted.to_pylist() if escape(image_id) in page]
    with open_parquet(uri) as file:
        ids = file.read(columns=["id"])["id"].cast(pa.string())
    found: list[str] = pc.unique(ids.filter(pc.is_in(ids, wanted))).to_pylist()
    return found


def _replace(trace: FileWithImages) -> None:
    """Publish the file without the images, and make its round name the new file."""
    folder, name = trace.uri.rsplit("/", 1)
    rows = pq.read_table(pa.BufferReader(storage.read_verified(trace.uri)))
    gone = pc.is_in(rows["id"].cast(pa.string()), pa.array(trace.ids, pa.string()))
    new = publish_table(folder, rows.filter(pc.invert(gone)))
    if trace.round_folder is not None:
        _rename(trace.round_folder, name, new)


def _rename(round_folder: str, name: str, new: str) -> None:
    with open_with_footer(new) as (file, footer):
        groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    listed = {"row_groups": groups, "footer": footer}
    for uri in storage.list_files(round_folder, ".json"):
        try:
            before = read_fields(uri)
        except LostFileError:
            continue  # it stays damaged, so that whoever reads it sees that
        after = _renamed(before, name, storage.name(new), listed)
        if after != before:
            storage.publish(uri, encoded(after))


def _renamed(value: Any, name: str, new: str, listed: dict[str, Any]) -> Any:
    """Return a JSON value with a file's new name in place of the old, and its new listing."""
    if isinstance(value, str):
        return value.removesuffix(name) + new if value.endswith(name) else value
    if isinstance(value, list):
        return [_renamed(item, name, new, listed) for item in value]
    if isinstance(value, dict):
        renamed = {key: _renamed(item, name, new, listed) for key, item in value.items()}
        now = {key: listed[key] for key in listed.keys() & value.keys()}
        return renamed if renamed == value else renamed | now
    return value
