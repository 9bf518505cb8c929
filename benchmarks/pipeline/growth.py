"""Measure how a round grows with its pool: seconds, memory and files, and a line fitted to them.

Run `python benchmarks/pipeline/growth.py FOLDER`. It writes its pools there, and keeps them. The
last result is in growth.txt.

Pools are Parquet files of PNGs of 12 by 12 pixels. These are so small that the times show what
baal_ray does for each image, not decoding and the model. A round runs in a process of its own on a
Ray of two CPUs, with a model that was fitted before: it reads, scores, selects 1,000 and commits.
Memory is the most that its driver ever held. The line a + b·N is fitted to the seconds by least
squares of relative errors.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SUPPORT = Path(__file__).parents[2] / "tests" / "support"
sys.path.insert(0, str(SUPPORT))
from pools import picture, round_config, write_labelled  # noqa: E402

ROWS_PER_FILE, ROW_GROUP, PICTURES, PICKS = 100_000, 10_000, 1_000, 1_000


def write_pool(folder, images):
    """Write a pool of a few images under many names, and return its folder."""
    pool = folder / f"pool-{images}"
    if (pool / "_complete").exists():
        return pool
    shutil.rmtree(pool, ignore_errors=True)
    pool.mkdir(parents=True)
    pictures = [picture(number % 3, number) for number in range(PICTURES)]
    for start in range(0, images, ROWS_PER_FILE):
        numbers = range(start, min(start + ROWS_PER_FILE, images))
        rows = {
            "id": [f"photos/{number:010d}.png" for number in numbers],
            "image": [pictures[number % PICTURES] for number in numbers],
        }
        file = pool / f"part-{start:010d}.parquet"
        pq.write_table(pa.table(rows), file, row_group_size=ROW_GROUP, use_dictionary=False)
    (pool / "_complete").touch()
    return pool


def most_memory():
    """Return the most MiB that this process has held."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if "VmHWM" in line).split()[1]) / 1024


def round_of(folder, images):
    """Run a round over this number of images, and return its seconds, memory and files."""
    import ray

    from baal_ray.driver import run_round
    from baal_ray.manifest import Manifest
    from baal_ray.manifest.labelled_sets import import_labelled_set
    from baal_ray.training.fit import fit_model
    from baal_ray.workspace import manifest_uri

    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    config = round_config(
        folder,
        pool={"uri": str(folder / f"pool-{images}")},
        selection={"k": PICKS},
        scoring={"samples": 20, "batch_size": 256},
        resources={"training_workers": 0, "scoring_actors": 1},
    )
    manifest = Manifest(manifest_uri(config.workspace))
    labelled = write_labelled(folder, images=60)
    import_labelled_set(manifest, labelled, workspace=config.workspace, classes=config.classes)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    fit_model(config, manifest.labelled())
    before, begun = most_memory(), time.perf_counter()
    result = run_round(config, "night")
    seconds = time.perf_counter() - begun
    ray.shutdown()
    assert (result.scored, result.acquired) == (images, PICKS)
    files = [file.stat().st_size for file in workspace.glob("scores/*/*.parquet")]
    return {
        "seconds": seconds,
        "stages": result.seconds,
        "mib": most_memory(),
        "mib_before": before,
        "files": len(files),
        "bytes": sum(files),
    }


def main():
    """Run a round per pool, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--arm", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.arm:
        print(json.dumps(round_of(folder, *arguments.images)))
        return
    print("    images  seconds  fit reused  score  select  driver MiB (before)  files   MB each")
    measured = []
    for images in arguments.images * arguments.repeats:
        write_pool(folder, images)
        command = [sys.executable, __file__, str(folder), "--arm", "--images", str(images)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        measured.append((images, found["seconds"]))
        stages = found["stages"]
        print(
            f"{images:10,}  {found['seconds']:7.1f}  {stages['fit']:10.1f}  "
            f"{stages['score']:5.1f}  {stages['select']:6.1f}  "
            f"{found['mib']:10.0f} ({found['mib_before']:.0f})  {found['files']:5,}  "
            f"{found['bytes'] / found['files'] / 1e6:8.2f}",
            flush=True,
        )
    counts, seconds = np.array(measured).T
    terms = np.stack([np.ones_like(counts), counts], axis=1) / seconds[:, None]
    (a, b), *_ = np.linalg.lstsq(terms, np.ones_like(seconds), rcond=None)
    print(f"seconds = {a:.1f} + {b * 1e6:.1f} for a million images")
    for images, took in measured:
        line = a + b * images
        print(f"{images:10,}  {took:7.1f} s, by the line {line:7.1f} s: {took / line - 1:+.1%}")
    print(f"on paper, 10⁹ images on two such cores: {(a + b * 1e9) / 3600:,.0f} hours")


if __name__ == "__main__":
    main()
