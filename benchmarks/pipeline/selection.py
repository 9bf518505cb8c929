"""Time selection from score files of many images: `top_k`, and `order by … limit` of DuckDB.

Run `python benchmarks/pipeline/selection.py FOLDER`. It writes 6 GB of score files there, as a
round does, and keeps them for the next run. The last result is in selection.txt.

For each pool size both run in turn, each time in a process of its own, and their picks are
compared. The seconds are of the selection alone, without imports. Memory is the most that the
process ever held.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

ROWS_PER_FILE = 20_000
K = 10_000


def write_scores(folder, files):
    """Write score files as the stage does, until there are `files` of them."""
    from baal_ray.storage.datasink import PublishedParquet
    from baal_ray.workspace.table_schemas import (
        FINGERPRINT,
        SCORE_COLUMNS,
        SCORES,
        STABILITY_COLUMNS,
    )

    schema = SCORES.with_metadata({FINGERPRINT: folder.name.encode()})
    sink = PublishedParquet(str(folder), schema, bytes_per_file=0)
    numbers = np.arange(ROWS_PER_FILE)
    for file in range(len(list(folder.glob("*.parquet"))), files):
        rng = np.random.default_rng(file)
        # Few distinct values, so that the last picks are tied with many others.
        bald = np.round(rng.gamma(1, 0.1, ROWS_PER_FILE), 3)
        first = file * ROWS_PER_FILE
        columns = {
            "id": [f"photos/{first + number:09d}.jpg" for number in numbers],
            "source": [f"s3://team/pool/part-{file:06d}.parquet"] * ROWS_PER_FILE,
            "samples": np.full(ROWS_PER_FILE, 20, np.int32),
            "predicted": rng.integers(0, 100, ROWS_PER_FILE, dtype=np.int32),
            "error": pa.nulls(ROWS_PER_FILE, pa.string()),
            "log_probs": pa.nulls(ROWS_PER_FILE, pa.binary()),
        }
        for name in (*SCORE_COLUMNS, *STABILITY_COLUMNS):
            noise = 1 if name == "bald" else rng.uniform(0.9, 1.1, ROWS_PER_FILE)
            columns[name] = (bald * noise).astype(np.float32)
        table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
        sink.write([table], None)


def by_baal_ray(files):
    """Return the picks of `top_k`, and the seconds."""
    from baal_ray.selection import top_k

    begun = time.perf_counter()
    picks = top_k(files, K)
    return picks, time.perf_counter() - begun


def by_duckdb(files):
    """Return the picks of the same query in SQL, and the seconds."""
    import duckdb

    begun = time.perf_counter()
    picks = duckdb.execute(
        f"select * from read_parquet(?) where error is null order by bald desc limit {K}", [files]
    )
    return picks.to_arrow_table(), time.perf_counter() - begun


ARMS = {"baal_ray": by_baal_ray, "duckdb": by_duckdb}


def most_memory():
    """Return the most kB that this process has held, without what its parent held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if "VmHWM" in line).split()[1])


def run_arm(name, folder, count):
    """Run an arm in this process, and print its result as JSON."""
    files = sorted(str(file) for file in folder.glob("*.parquet"))[:count]
    picks, seconds = ARMS[name](files)
    scores = np.sort(picks["bald"].to_numpy())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "mib": most_memory() / 1024,
                "ids": len(set(picks["id"].to_pylist())),
                "scores": scores.astype(float).sum(),
                "lowest": float(scores[0]),
            }
        )
    )


def arm(name, folder, count):
    """Run an arm in a process of its own, and return its result."""
    command = [sys.executable, __file__, str(folder.parent), "--arm", name, "--files", str(count)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def main():
    """Run both on each pool size, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve() / "scores"
    if arguments.arm:
        run_arm(arguments.arm, folder, arguments.files)
        return
    folder.mkdir(parents=True, exist_ok=True)
    print(f"top {K:,} by BALD; median of {arguments.repeats}, in turn")
    print("       rows   files      baal_ray        duckdb  ratio    baal_ray      duckdb  picks")
    for rows in arguments.rows:
        files = rows // ROWS_PER_FILE
        write_scores(folder, files)
        runs = [
            {name: arm(name, folder, files) for name in ARMS} for _ in range(arguments.repeats)
        ]
        ours, theirs = ([run[name] for run in runs] for name in ARMS)
        alike = all(
            a[it] == b[it]
            for a, b in zip(ours, theirs, strict=True)
            for it in ("ids", "scores", "lowest")
        )
        ratio = median(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))
        print(
            f"{rows:11,}  {files:6,}  {median(r['seconds'] for r in ours):10.2f} s  "
            f"{median(r['seconds'] for r in theirs):10.2f} s  {ratio:5.2f}  "
            f"{max(r['mib'] for r in ours):6.0f} MiB  {max(r['mib'] for r in theirs):6.0f} MiB  "
            f"{'the same scores' if alike else 'DIFFER'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
