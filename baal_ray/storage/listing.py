"""Listings of the files below a folder, with a warning if they leave out what may be wanted."""

import logging
import os
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from baal_ray.storage.files import exists, filesystem, join, storage_errors
from baal_ray.storage.redaction import redacted

logger = logging.getLogger(__name__)

_EXAMPLES = 5

_LINKED = "links to folders, which are not followed: name the folder itself, or bind-mount it"
_SPECIAL = "pipes, sockets or devices, which are never opened: put files in their place"
_UNNAMABLE = "names with an empty part, '.' or '..', which do not name one object: rename them"


class LeftOut:
    """The record of what one listing left out."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def skips_on_disk(self, path: str, info: dict[str, Any]) -> bool:
        """Return whether a local path is neither a file nor a link to one.

        If so, it is recorded as left out.
        """
        if info.get("type", "file") == "file":
            return False
        try:
            mode = os.stat(path).st_mode
        except OSError:  # a dangling link: reading it reports the error
            return False
        if not stat.S_ISREG(mode):
            self._note(_LINKED if stat.S_ISDIR(mode) else _SPECIAL, path)
        return not stat.S_ISREG(mode)

    def skips_in_store(self, path: str) -> bool:
        """Return whether the last part of a key does not name a single object.

        If so, it is recorded as left out.
        """
        unnamable = path.rsplit("/", 1)[-1] in ("", ".", "..")
        if unnamable:
            self._note(_UNNAMABLE, path)
        return unnamable

    def warn(self, uri: str) -> None:
        """Log a warning for each reason, with examples."""
        for why, count in self._counts.items():
            examples = ", ".join(map(repr, self._examples[why]))
            logger.warning(redacted(f"{uri}: {count} left out, such as {examples}: {why}"))

    def _note(self, why: str, path: str) -> None:
        self._counts[why] += 1
        if len(self._examples[why]) < _EXAMPLES:
            self._examples[why].append(path)


def walk(fs: fsspec.AbstractFileSystem, folder: str, left_out: LeftOut) -> Iterator[str]:
    """Yield the paths of a folder's files, then those in its folders.

    Unlike fsspec's `walk`, it hides no errors.
    """
    local, folders, files = isinstance(fs, LocalFileSystem), [], []
    for info in fs.ls(folder, detail=True):
        path = info["name"]
        if path == folder or (info["type"] == "file" and path.endswith("/")):
            continue  # a file instead of the folder, or an object that stands for it
        if info["type"] == "directory":
            # The name of the folder in "a//b.jpg" ends in a slash.
            if (local or not left_out.skips_in_store(path)) and not _is_hidden(path):
                folders.append(path)
        elif not _is_hidden(path) and not (local and left_out.skips_on_disk(path, info)):
            files.append(path)
    yield from sorted(files)
    for below in sorted(folders):
        yield from walk(fs, below, left_out)


def _is_hidden(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith(".")


_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def unfinished_files(uri: str) -> dict[str, float]:
    """Find the files that killed writers left below a local folder.

    An object store keeps nothing of an unfinished PUT.

    Returns:
        The time at which each was last written to, in seconds since the epoch, by path.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        return {}
    files = fs.find(path, detail=True).items()
    return {
        file: details["mtime"]
        for file, details in files
        if _UNFINISHED.fullmatch(file.rsplit("/", 1)[-1])
    }


def list_files(uri: str, extension: str = "", *, hidden: bool = False) -> list[str]:
    """Return the URIs of the files below a folder or prefix, sorted; none if it is absent.

    A file or folder whose name starts with a dot or an underscore is hidden, as in Spark and Delta
    Lake, and is left out unless `hidden` is set. So are unfinished files. Pipes, devices and links
    to folders are left out with a warning.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    root = path.rstrip("/")
    local, left_out = isinstance(fs, LocalFileSystem), LeftOut()
    with storage_errors(uri, "listed"):
        found: dict[str, dict[str, Any]] = fs.find(root, detail=True)
    below = {path[len(root) :].lstrip("/"): info for path, info in found.items()}
    names = [
        name
        for name, info in below.items()
        if name
        and (hidden or not is_hidden_below(name))
        and not (local and left_out.skips_on_disk(f"{root}/{name}", info))
    ]
    left_out.warn(uri)
    place = uri if "://" in uri else root
    return sorted(join(place, name) for name in names if name.endswith(extension))


def is_hidden_below(name: str) -> bool:
    """Return whether a file is hidden, or is in a hidden folder, by its path below a folder."""
    return any(part.startswith((".", "_")) for part in name.split("/"))


def walk_files(uri: str) -> Iterator[str]:
    """Yield the names of the files below a folder or prefix, relative to it; none if it is absent.

    One folder is listed and sorted at a time, so that memory never holds all names. Names that
    start with a dot are left out. Names that start with an underscore are kept, because cameras
    write such names. Anything on a disk that is not a file, such as pipes and links to folders, is
    left out with a warning, and so are keys that a store would take for other keys.

    Raises:
        StorageError: If a folder cannot be listed.
    """
    fs, path = filesystem(uri)
    root = path.rstrip("/")
    if not exists(uri):
        return
    left_out = LeftOut()
    with storage_errors(uri, "listed"):
        for found in walk(fs, root, left_out):
            yield found[len(root) + 1 :]
    left_out.warn(uri)
