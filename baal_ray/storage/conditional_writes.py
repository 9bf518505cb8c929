"""Whether a store lets one of several racing writers create a file, found out by a race.

What happens once is decided by who creates a file: the plan of a round, and each version of the
manifest. Where two can create the same file, two jobs can commit the same round.
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
    """Let several threads create a file at the same moment; gives how many believe they did."""
    together = threading.Barrier(_WRITERS)

    def create(number: int) -> bool:
        together.wait()
        return storage.create_if_absent(uri, str(number).encode())

    with ThreadPoolExecutor(_WRITERS) as threads:
        return sum(threads.map(create, range(_WRITERS)))


def check_racing_creates(folder: str, race: Callable[[str], int] = race) -> None:
    """Refuse a store where more than one of several racing writers creates a file.

    A store that passes may still fail: a race shows a fault, never that there is none.

    Args:
        folder: where to try it; nothing stays behind.
        race: lets several writers create the file at a URI; gives how many believe they did.

    Raises:
        StorageError: it is such a store, or files cannot be created there at all.
    """
    with scratch_folder(folder) as scratch:
        for number in range(_ROUNDS):
            winners = race(storage.join(scratch, str(number)))
            # None won where the winner's answer was lost, and that is no fault of the store.
            if winners > 1:
                raise StorageError(
                    f"{folder} is in a store where {winners} writers created the same file in a "
                    "race; one may, or two jobs could commit the same round. Its conditional "
                    "writes (PUT with If-None-Match) are missing or not atomic: put the workspace "
                    "in a store that has them, as S3, GCS, Azure and Ceph do, or on a disk"
                )
