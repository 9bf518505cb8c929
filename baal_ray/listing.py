"""The files below a folder; what is left out although it may be meant is told in a warning."""

import logging
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from baal_ray.redaction import redacted

logger = logging.getLogger(__name__)

_EXAMPLES = 5

_LINKED = "links to folders, which are not followed: name the folder itself, or bind-mount it"
_SPECIAL = "pipes, sockets or devices, which are never opened: put files in their place"
_UNNAMABLE = "names with an empty part, '.' or '..', which do not name one object: rename them"


class LeftOut:
    """What one listing left out."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def takes_on_disk(self, path: str, info: dict[str, Any]) -> bool:
        """Whether what a disk has there is no file, nor a link to one; then it is noted."""
        if info.get("type", "file") == "file":
            return False
        try:
            mode = os.stat(path).st_mode
        except OSError:  # a link to nowhere: whoever reads it says so
            return False
        if not stat.S_ISREG(mode):
            self._note(_LINKED if stat.S_ISDIR(mode) else _SPECIAL, path)
        return not stat.S_ISREG(mode)

    def takes_in_store(self, path: str) -> bool:
        """Whether the last part of a key does not name one object; then it is noted."""
        unnamable = path.rsplit("/", 1)[-1] in ("", ".", "..")
        if unnamable:
            self._note(_UNNAMABLE, path)
        return unnamable

    def warn(self, uri: str) -> None:
        """Tell it, with examples."""
        for why, count in self._counts.items():
            examples = ", ".join(map(repr, self._examples[why]))
            logger.warning(redacted(f"{uri}: {count} left out, such as {examples}: {why}"))

    def _note(self, why: str, path: str) -> None:
        self._counts[why] += 1
        if len(self._examples[why]) < _EXAMPLES:
            self._examples[why].append(path)


def walk(fs: fsspec.AbstractFileSystem, folder: str, left_out: LeftOut) -> Iterator[str]:
    """Paths of a folder's files, then those of its folders; unlike fsspec's, it hides no fault."""
    local, folders, files = isinstance(fs, LocalFileSystem), [], []
    for info in fs.ls(folder, detail=True):
        path = info["name"]
        if path == folder or (info["type"] == "file" and path.endswith("/")):
            continue  # a file in place of the folder, or an object that stands for it
        if info["type"] == "directory":
            # The name of the folder in "a//b.jpg" ends in a slash.
            if (local or not left_out.takes_in_store(path)) and not _is_hidden(path):
                folders.append(path)
        elif not _is_hidden(path) and not (local and left_out.takes_on_disk(path, info)):
            files.append(path)
    yield from sorted(files)
    for below in sorted(folders):
        yield from walk(fs, below, left_out)


def _is_hidden(path: str) -> bool:
    return path.rsplit("/", 1)[-1].startswith(".")
