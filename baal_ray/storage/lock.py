"""A lock between the processes of one machine, released when its holder exits."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from baal_ray.errors import StorageError
from baal_ray.storage.files import sha256
from baal_ray.storage.remedies import explained

logger = logging.getLogger(__name__)


@contextmanager
def exclusive(uri: str) -> Iterator[None]:
    """Wait until no other process of this machine holds the lock of a URI, then hold it.

    The kernel releases the lock when the process ends, however it ends. The drivers of a Ray
    cluster's jobs run on one machine, its head. Processes on other machines are not seen. They may
    do the same work twice, but the files they write are created only once.
    """
    name = f"baal_ray-{os.getuid()}-{sha256(uri.encode())[:32]}.lock"
    path = os.path.join(tempfile.gettempdir(), name)
    try:
        # Anyone may write in that folder, and a link planted there could lead anywhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageError(explained(f"{path} cannot be locked", error)) from error
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process is working on %s: waiting until it ends", uri)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
