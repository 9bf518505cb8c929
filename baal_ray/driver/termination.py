"""Exit at once on SIGTERM, after printing which stage was running."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def exiting_on_sigterm(say: Callable[[], str]) -> Iterator[None]:
    """Print a sentence and end this process at once on SIGTERM, with exit code 143.

    Ray gives a stopped job three seconds, and Ray's own clean-up may take longer. Files on disk
    are complete at every moment, so nothing needs to be tidied up first.

    Args:
        say: Function that returns the sentence. It is called only on SIGTERM.
    """

    def end(signum: int, _frame: object) -> None:
        # Not through the logger, which the signal may have interrupted while it was writing.
        os.write(2, f"{say()}\n".encode())
        os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():  # no signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
