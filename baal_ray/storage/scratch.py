"""Scratch folders, used to try out a store before a round relies on it."""

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from baal_ray import storage
from baal_ray.errors import StorageError

_SCRATCH = re.compile(r"_scratch-(\d+)-[0-9a-f]{16}")


@contextmanager
def scratch_folder(parent: str) -> Iterator[str]:
    """Name a hidden folder below another to try out the store in, and remove it at the end.

    Raises:
        StorageError: If the folder cannot be removed.
    """
    uri = storage.join(parent, f"_scratch-{int(time.time())}-{secrets.token_hex(8)}")
    try:
        yield uri
    except BaseException:
        with suppress(StorageError):  # the first error says more
            storage.delete_tree(uri)
        raise
    storage.delete_tree(uri)


def scratch_folders(parent: str) -> dict[str, int]:
    """Return the scratch folders below another, in use or left behind by killed processes.

    Returns:
        The time at which each was made, in seconds since the epoch, by URI.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    fs, path = storage.filesystem(parent)
    fs.invalidate_cache()
    with storage.storage_errors(parent, "listed"):
        try:
            below = fs.ls(path, detail=False)
        except FileNotFoundError:
            return {}
    names = [storage.name(found) for found in below]
    return {
        storage.join(parent, name): int(it[1])
        for name in names
        if (it := _SCRATCH.fullmatch(name))
    }
