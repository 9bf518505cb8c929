"""The time to read image files, with threads and without, by one read task.

Run `python benchmarks/pipeline/reading.py FOLDER`. The photographs of 500×375 are one file under
many names, so they come from memory. The other lines read as from a slower disk: each file is
waited for. The median of five interleaved runs, in microseconds per image.
"""

import sys
import time
from pathlib import Path
from statistics import median

import feeding
import pipeline

from baal_ray import storage
from baal_ray.pool.reading import _Fetcher
from baal_ray.pool.roots import Roots

IMAGES, RUNS = 1024, 5
WAITS = (0.0, 0.0002, 0.001, 0.01)


def main(folder: Path) -> None:
    """Read the files by each way, and by the one that a read task chooses."""
    pool = pipeline.pool_of(folder, "photographs", IMAGES)
    pipeline.write_pool(pool, feeding.PHOTOGRAPH, IMAGES)
    uris = [path.name.encode() for path in sorted(pool.iterdir())]
    read = storage.read_at_most
    print(f"{'each waited for, ms':20}{'one by one':>12}{'16 threads':>12}{'chosen':>12}")
    for wait in WAITS:

        def waits(place, limit, wait=wait):
            if wait:
                time.sleep(wait)
            return read(place, limit)

        storage.read_at_most = waits
        images = uris[: 128 if wait > 0.001 else IMAGES]
        seconds = {False: [], True: [], None: []}
        for _ in range(RUNS):
            for by_threads, times in seconds.items():
                fetch = _Fetcher(Roots(str(pool)))
                fetch._by_threads = by_threads
                begun = time.perf_counter()
                assert all(error is None for _, error in fetch(images))
                times.append((time.perf_counter() - begun) / len(images))
        shown = "".join(f"{median(times) * 1e6:12.0f}" for times in seconds.values())
        print(f"{wait * 1e3:<20}{shown}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
