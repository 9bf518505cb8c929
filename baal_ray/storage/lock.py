"""A lock between the processes of one machine, released when its holder exits."""

import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from baal_ray.errors import StorageError
from baal_ray.storage.files import sha256
from baal_ray.storage.remedies import explained

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Wait until no other process of this user and machine holds the lock of a URI, then hold it.

    The kernel releases the lock when the process ends, however it ends. The drivers of a Ray
    cluster's jobs run on one machine, its head. Processes on other machines are not seen. They may
    do the same work twice, but the files they write are created only once. So if somebody else
    took the name of this user's folder of locks, a warning is enough.

    Raises:
        StorageError: If the lock cannot be created for another reason.
    """
    folder = os.path.join(tempfile.gettempdir(), f"baal_ray-{os.getuid()}")
    path = os.path.join(folder, f"{sha256(uri.encode())[:32]}.lock")
    try:
        descriptor = _opened(path) if _is_private(folder) else None
    except OSError as error:
        raise StorageError(explained(f"{path} cannot be locked", error)) from error
    if descriptor is None:
        logger.warning(
            "%s is not a folder that only its user may write to, so %s is not locked; do not work "
            "on it twice at a time on this machine. Remove that, or set TMPDIR to your own folder",
            folder,
            uri,
        )
        yield
        return
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process is working on %s: waiting until it ends", uri)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _opened(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _is_private(folder: str) -> bool:
    """Return whether a folder belongs to this user alone. It is made if nothing is there.

    Anyone may write in the folder above it, and could have planted a link, or a folder and locks
    that are never released.
    """
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not others_write
