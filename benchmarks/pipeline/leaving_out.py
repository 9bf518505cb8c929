"""Leave ten million ids out of a pool of twenty million: time per row, and memory per id.

Run `python benchmarks/pipeline/leaving_out.py FOLDER`. It writes a pool of 0.2 GB there, and keeps
it. The last result is in leaving_out.txt.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from baal_ray.config import PoolConfig
from baal_ray.ids import IdSet, hash_ids
from baal_ray.pool import list_pool, read_pool

FILES, ROWS_PER_FILE, ROW_GROUP = 200, 100_000, 10_000
TASKS = 4


def write_pool(folder):
    """Write twenty million rows. Their images have one byte, because most are not read."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(FILES):
        target = folder / f"part-{file:03d}.parquet"
        if not target.exists():
            table = pa.table({"id": ids_of(file), "image": pa.array([b"x"] * ROWS_PER_FILE)})
            pq.write_table(table, target, row_group_size=ROW_GROUP)


def ids_of(file):
    """Return the ids in a file."""
    first = file * ROWS_PER_FILE
    return pa.array([f"photos/{first + number:09d}.jpg" for number in range(ROWS_PER_FILE)])


def every_other():
    """Return the set of every other id of the pool, which are left out."""
    return IdSet.of_hashes(hash_ids(ids_of(file)[::2]) for file in range(FILES))


def most_memory():
    """Return the most bytes that this process has held since it began, or since the last call."""
    peak = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak.split()[1]) * 1024


def memory_of_a_task(hashes, barrier):
    """Return the bytes of its own that a worker needs for a lookup, while others do the same."""
    process = psutil.Process()
    IdSet(np.sort(hash_ids(["warm"]))).contains(pa.array(["up"]))
    before = process.memory_full_info().uss
    found = IdSet(hashes).contains(ids_of(0)).sum()
    time.sleep(barrier)
    return process.memory_full_info().uss - before, int(found), os.getpid()


def main():
    """Run the measurements, and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    folder = (parser.parse_args().folder / "pool").resolve()
    write_pool(folder)

    most_memory()
    before = most_memory()
    begun = time.perf_counter()
    ids = every_other()
    seconds = time.perf_counter() - begun
    most = most_memory() - before
    count = len(ids)
    print(f"a set of {count:,} ids: {seconds:.1f} s, {seconds / count * 1e6:.2f} µs an id")
    print(
        f"  it has {ids.hashes.nbytes / count:.1f} bytes an id; making it took {most / count:.1f}"
    )

    asked = [ids_of(file) for file in range(0, FILES, 10)]
    for size in (1_000, ROW_GROUP, ROWS_PER_FILE):
        begun, left_out = time.perf_counter(), 0
        for rows in asked:
            for start in range(0, len(rows), size):
                left_out += ids.contains(rows[start : start + size]).sum()
        seconds = time.perf_counter() - begun
        rows = len(asked) * ROWS_PER_FILE
        assert left_out == rows // 2
        print(f"a lookup, {size:,} rows at a time: {seconds / rows * 1e6:.2f} µs a row")

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    task = ray.remote(num_cpus=2 / TASKS)(memory_of_a_task)
    stored = ray.put(ids.hashes)
    found = ray.get([task.remote(stored, 5) for _ in range(TASKS)])
    assert all(left_out == ROWS_PER_FILE // 2 for _, left_out, _ in found)
    own = ", ".join(f"{used / 2**20:.0f}" for used, _, _ in found)
    workers = len({pid for *_, pid in found})
    print(
        f"in {workers} workers of a node: {ids.hashes.nbytes / count:.1f} bytes an id of its "
        f"object store, shared; MiB of their own, to look up {ROWS_PER_FILE:,} rows: {own}"
    )

    listing = list_pool(PoolConfig(uri=str(folder)), str(folder))
    rest = read_pool(listing, leave_out=ids)
    begun = time.perf_counter()
    rows = rest.count()
    seconds = time.perf_counter() - begun
    assert rows == FILES * ROWS_PER_FILE // 2
    print(
        f"the whole reading stage, two cores: {seconds:.0f} s, {rows:,} of {2 * rows:,} rows left"
    )
    ray.shutdown()


if __name__ == "__main__":
    main()
