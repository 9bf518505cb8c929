"""A race that shows whether a store lets only one of several writers create a file.

The plan of a round, and each version of the manifest, is set by the writer that creates its file.
If two writers could create the same file, two jobs could commit the same round.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.storage.scratch import scratch_folder

_ROUNDS = 5
_WRITERS = 8


def race(uri: str) -> int:
    """Let several threads create a file at once, and return how many believe they did."""
    together = threading.Barrier(_WRITERS)

    def create(number: int) -> bool:
        together.wait()
        return storage.create_if_absent(uri, str(number).encode())

    with ThreadPoolExecutor(_WRITERS) as threads:
        return sum(threads.map(create, range(_WRITERS)))


def check_conditional_writes(folder: str, race: Callable[[str], int] = race) -> None:
    """Refuse a store in which several racing writers can create the same file.

    A store that passes may still be faulty: a race can show a fault, but never rule one out.

    Args:
        folder: Folder to hold the race in. Nothing stays behind.
        race: Function that lets several writers create the file at a URI, and returns how many
            believe they did.

    Raises:
        StorageError: If several writers created the same file, or files cannot be created there.
    """
    with scratch_folder(folder) as scratch:
        for number in range(_ROUNDS):
            winners = race(storage.join(scratch, str(number)))
            # If the winner's response was lost, no one won. That is not a fault of the store.
            if winners > 1:
                raise StorageError(
                    f"{folder} is in a store where {winners} writers created the same file in a "
                    "race; only one may, because otherwise two jobs could commit the same round. "
                    "Its conditional writes (PUT with If-None-Match) are missing or not atomic: "
                    "put the workspace on a disk, or in a store that has them, such as S3, GCS, "
                    "Azure or Ceph"
                )
