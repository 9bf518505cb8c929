"""Small disks that can be filled, for users who may mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[str]:
    """Mount a disk of one megabyte of memory, or skip the test if this user may not mount it."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(("size=1m", *options)), "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")
    try:
        yield str(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: str, leave: int = 0) -> None:
    """Write a file until its disk is full, except for `leave` bytes."""
    with open(path, "wb", buffering=0) as rest:
        with suppress(OSError):
            while rest.write(b"x" * 4096):
                pass
        rest.truncate(rest.tell() - leave)
