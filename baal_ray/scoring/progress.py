"""How far scoring is, told in a job's log: by what is on disk, which no failure takes back."""

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

# For a store that hangs; the round does not.
_PATIENCE = 5.0


@contextmanager
def reporting_progress(folder: str, images: int, every: float = _EVERY) -> Iterator[None]:
    """Log a line a minute while the block runs: images scored, their rate, and what is left.

    In a terminal nothing is said, as Ray draws its bars there. What goes wrong with telling is
    nobody's fault, and ends nothing.

    Args:
        folder: of the fingerprint that is scored.
        images: about how many are to be scored.
        every: seconds between two lines.
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
            logger.info("how far scoring is cannot be told: %s", error)
        else:
            if seconds := time.monotonic() - begun:
                logger.info("%s", progress_line(sum(rows_of.values()), images, seconds))
        if done.wait(every):
            return


def progress_line(scored: int, images: int, seconds: float) -> str:
    """How far it is, how fast, and how long it will take.

    Args:
        scored: images whose scores are on disk.
        images: about how many are to be scored; may turn out to be fewer.
        seconds: since it began.
    """
    if scored >= images:  # so many of those left out are no longer in the pool
        return f"scores: {scored:,} images are on disk, {scored / seconds:,.0f} a second"
    line = f"scores: {scored:,} of about {images:,} images are on disk"
    if not scored:
        return line
    left = (images - scored) / scored * seconds
    return f"{line}, {scored / seconds:,.0f} a second, about {in_words(left)} left"


def in_words(seconds: float) -> str:
    """Such as 40 s, 25 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
