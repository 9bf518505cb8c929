"""Tests of a lock for one process of this machine at a time, with a real second process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from baal_ray.errors import StorageError
from baal_ray.storage.lock import exclusive

HOLDER = """
import sys
from baal_ray.storage.lock import exclusive

with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Yield a process that holds the round until its input ends or it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_the_second_waits_until_the_first_has_ended(tmp_path, holder, how, caplog):
    entered = []

    def enter():
        with exclusive(str(tmp_path)):
            entered.append(holder.poll() is None)

    waiting = Thread(target=enter)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    assert not entered
    if how == "killed":
        os.kill(holder.pid, signal.SIGKILL)
    else:
        holder.stdin.close()
    waiting.join(30)
    assert len(entered) == 1
    assert f"another process is working on {tmp_path}" in caplog.text


def test_another_round_waits_for_nobody(tmp_path, holder, caplog):
    with exclusive(str(tmp_path / "other")):
        assert holder.poll() is None
    assert not caplog.text


def planted_link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def foreign_folder(folder: Path) -> None:
    """Make the folder as another user would, or skip the test."""
    if os.getuid():
        pytest.skip("only root may act as another user")
    folder.mkdir(mode=0o777)
    os.chown(folder, 65534, 65534)


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


@pytest.mark.parametrize("plant", [planted_link, foreign_folder, open_to_all, Path.touch])
def test_what_others_plant_is_not_used_and_denies_nothing(tmp_path, monkeypatch, caplog, plant):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"baal_ray-{os.getuid()}"
    plant(folder)
    with exclusive("round"):
        assert f"{folder} is not a folder that only its user may write to" in caplog.text
    assert not list(tmp_path.rglob("*.lock"))


def test_the_folder_of_locks_is_private(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with exclusive("round"):
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [lock.suffix for lock in folder.iterdir()] == [".lock"]
    assert not caplog.text


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="cannot be locked"), exclusive("round"):
        pass
