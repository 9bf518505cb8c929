"""One process of a machine at a time, for as long as it lives."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from baal_ray.errors import StorageError
from baal_ray.storage.files import sha256
from baal_ray.storage.remedies import told

logger = logging.getLogger(__name__)


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Wait until no other process of this machine holds what a URI names, then hold it.

    The kernel lets go of it when the process ends, however it ends. The drivers of a Ray cluster's
    jobs run on one machine, its head. Processes of other machines are not seen: they may do the
    same work twice, but what they write is created once.
    """
    name = f"baal_ray-{os.getuid()}-{sha256(uri.encode())[:32]}.lock"
    path = os.path.join(tempfile.gettempdir(), name)
    try:
        # Everybody may write in that folder, and a link planted there could lead anywhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StorageError(told(f"{path} cannot be locked", error)) from error
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process works on %s: waiting until it has ended", uri)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
