"""Read the next files while one is worked on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AT_ONCE = 4

File = TypeVar("File")
Contents = TypeVar("Contents")


def read_ahead(read: Callable[[File], Contents], files: Iterable[File]) -> Iterator[Contents]:
    """What `read` gives for each file, in their order, up to four of them read at once in threads.

    So a store's latency, checksums and decompression do not add up to what is done with each. At
    most five files' contents are held.

    Args:
        read: called with each file; what it raises comes when it is that file's turn.
        files: to be read.
    """
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        pending: deque[Future[Contents]] = deque()
        try:
            for file in files:
                pending.append(threads.submit(read, file))
                if len(pending) == _AT_ONCE:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
