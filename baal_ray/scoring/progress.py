"""Progress of scoring in a job's log, counted from the scores on disk.

Failures cannot undo it.
"""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from baal_ray.errors import BaalRayError
from baal_ray.storage.parquet import open_parquet
from baal_ray.workspace.scores import score_files

logger = logging.getLogger(__name__)

_EVERY = 60.0

# Seconds to wait at the end for a store that hangs, so that the round does not hang.
_PATIENCE = 5.0


@contextmanager
def reporting_progress(folder: str, images: int, every: float = _EVERY) -> Iterator[None]:
    """Log a line per minute while the block runs: images scored, their rate, and the time left.

    Nothing is logged in a terminal, because Ray draws its progress bars there. If the progress
    cannot be read, that is logged, and scoring goes on.

    Args:
        folder: Folder of the scores that are being written.
        images: Approximate number of images to score.
        every: Seconds between two lines.
    """
    if sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    teller = threading.Thread(target=_tell, args=(folder, images, every, done), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join(_PATIENCE)


def _tell(folder: str, images: int, every: float, done: threading.Event) -> None:
    rows_of: dict[str, int] = {}
    earlier: set[str] | None = None
    begun = time.monotonic()
    while True:
        try:
            files = set(score_files(folder))
            earlier = files if earlier is None else earlier
            for file in files - earlier - rows_of.keys():
                with open_parquet(file) as parquet:
                    rows_of[file] = parquet.metadata.num_rows
        except BaalRayError as error:
            logger.info("cannot read the progress of scoring: %s", error)
        else:
            if seconds := time.monotonic() - begun:
                logger.info("%s", progress_line(sum(rows_of.values()), images, seconds))
        if done.wait(every):
            return


def progress_line(scored: int, images: int, seconds: float) -> str:
    """Return a line with the number of images scored, their rate, and the time left.

    Args:
        scored: Number of images whose scores are on disk.
        images: Approximate number of images to score. It may be too low.
        seconds: Seconds since scoring began.
    """
    if scored >= images:  # some images that were left out are no longer in the pool
        return f"scores: {scored:,} images are on disk, {scored / seconds:,.0f} per second"
    line = f"scores: {scored:,} of about {images:,} images are on disk"
    if not scored:
        return line
    left = (images - scored) / scored * seconds
    return f"{line}, {scored / seconds:,.0f} per second, about {in_words(left)} left"


def in_words(seconds: float) -> str:
    """Return a duration in words, such as 40 s, 25 min or 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
