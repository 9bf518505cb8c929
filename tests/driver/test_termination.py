"""Tests of SIGTERM, sent to a real process in the middle of its work."""

import signal
import subprocess
import sys

from baal_ray.driver.termination import exiting_on_sigterm

WORKER = """
import atexit, logging, time
from baal_ray.driver.termination import exiting_on_sigterm

atexit.register(time.sleep, 60)  # as a slow clean-up
with exiting_on_sigterm(lambda: "it was working"):
    print("working", flush=True)
    while True:
        time.sleep(60)
"""


def test_the_process_says_where_it_stood_and_ends_with_143():
    with subprocess.Popen(
        [sys.executable, "-c", WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (143, "it was working\n")


def test_the_handler_before_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with exiting_on_sigterm(str):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
