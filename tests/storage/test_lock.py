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


def test_a_link_that_was_planted_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with exclusive("round"):
        (lock,) = tmp_path.iterdir()
    lock.unlink()
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    lock.symlink_to(precious)
    with pytest.raises(StorageError, match="cannot be locked"), exclusive("round"):
        pass
    assert precious.read_text() == "keep me"
