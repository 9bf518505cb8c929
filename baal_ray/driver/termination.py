"""End at once when told to, saying where the work stands."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def exiting_on_sigterm(say: Callable[[], str]) -> Iterator[None]:
    """On SIGTERM say a sentence and end this very process, with exit code 143.

    Ray gives a job that is stopped three seconds, and its own clean-up may take longer. What is
    on disk is whole at every moment, so nothing needs to be put in order first.

    Args:
        say: gives the sentence, when it is needed.
    """

    def end(signum: int, _frame: object) -> None:
        # Not the logger: the signal may have come while it was writing.
        os.write(2, f"{say()}\n".encode())
        os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
