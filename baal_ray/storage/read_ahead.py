"""Reading ahead: the next files are read while one is being processed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_AT_ONCE = 4

File = TypeVar("File")
Contents = TypeVar("Contents")


def read_ahead(read: Callable[[File], Contents], files: Iterable[File]) -> Iterator[Contents]:
    """Yield what `read` returns for each file, in order, reading up to four at once in threads.

    So a store's latency, checksums and decompression overlap with the processing of the files. At
    most five files' contents are held in memory.

    Args:
        read: Function called with each file. If it raises an error, that is raised at the file's
            turn.
        files: Files to read.
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
