"""A script for a round whose driver meets a fault at one of its storage calls.

python faults.py CONFIG ROUND              counts the calls, and runs the round to its end
python faults.py CONFIG ROUND kill 3       is killed by SIGKILL just before its third write
python faults.py CONFIG ROUND kill 3.5     is killed just after it
python faults.py CONFIG ROUND fail 3       sees its third call fail, or 3.5: fail after it was done

Kills are at writes: files published, created and deleted, and commits to the manifest. Failures
are also at reads. The last line of the output has the number of writes and the number of calls.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.driver import run_round
from baal_ray.errors import StorageError
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.storage import files, listing

# A function is watched under each name by which a module calls it: `storage.publish`, and
# `publish` inside `storage/files.py`.
WRITES: list[tuple[Any, str]] = [
    (module, name)
    for name in ("publish", "create_if_absent", "delete")
    for module in (storage, files)
]
WRITES += [(VersionedTable, name) for name in ("create", "merge")]
READS: list[tuple[Any, str]] = [
    (module, name) for name in ("read", "exists") for module in (storage, files)
]
READS += [(module, "list_files") for module in (storage, listing)]
READS += [(VersionedTable, "open")]


class Calls:
    """A counter of calls that makes a fault happen before one of them or after it."""

    def __init__(self, fault: Callable[[], None], at: float | None) -> None:
        self.made = 0
        self._fault = fault
        self._at = at

    def watch(self, functions: list[tuple[Any, str]]) -> None:
        """Watch all calls of these functions, given by owner and name."""
        for owner, name in functions:
            setattr(owner, name, self._watched(getattr(owner, name)))

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.made += 1
            number = self.made
            if self._at == number:
                self._fault()
            result = function(*args, **kwargs)
            if self._at == number + 0.5:
                self._fault()
            return result

        return called


def die() -> None:
    """Kill this process, as if the machine were lost."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    """Raise the error of a store that is out of reach."""
    raise StorageError("the store is out of reach, for once")


def drive(path: str, round_id: str, kind: str = "none", at: str = "0") -> str:
    """Run the round with the fault, and return the number of writes and the number of calls.

    Raises:
        StorageError: The fault itself, or an error that follows from it.
    """
    writes = Calls(die, float(at) if kind == "kill" else None)
    writes.watch(WRITES)
    calls = Calls(fail, float(at) if kind == "fail" else None)
    calls.watch(WRITES + READS)
    print(run_round(RoundConfig.from_yaml(path), round_id).summary())
    return f"{writes.made} {calls.made}"


if __name__ == "__main__":
    try:
        print(drive(*sys.argv[1:]))
    except StorageError as error:
        sys.exit(str(error))
