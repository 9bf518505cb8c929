"""Kill the driver of a round at each of its writes and at random moments, and run it again.

Run `python benchmarks/faults/kills.py`. The last result is in kills.txt. Each time, the round
begins in a fresh copy of one workspace, is killed by SIGKILL, and is run again. Likewise, each of
its storage calls, reads included, fails once before it takes effect and once after. Exit status 1
means that the manifest, batch or scores differ from those of an undisturbed round in any bit.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import ray
from rounds import (
    begin,
    counts,
    finish,
    outcome,
    prepare,
    same,
    scored_rows,
    start_ray,
    write_config,
)

ROUND = "night"
KINDS = ["writes", "calls", "random"]


def copy_of(config, folder):
    """Copy a workspace, and return a configuration for the copy, over the same pool."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(config.workspace, folder / "workspace")
    copy = config.model_copy(update={"workspace": str(folder / "workspace")})
    write_config(copy)
    return copy


def stages_done(config):
    """Return the names of the stages that the killed driver had finished."""
    names = ("plan", "fit", "scores", "batch", "round")
    folder = Path(config.workspace, "rounds", ROUND)
    return ", ".join(name for name in names if (folder / f"{name}.json").exists()) or "nothing"


def disturbed(config, expected, *fault, after=None):
    """Run a round with a fault, or kill it after some seconds, and run it again.

    Returns:
        Whether the result equals that of an undisturbed round, and a line about it.
    """
    process = begin(config, ROUND, *fault)
    if after is not None:
        time.sleep(after)
        process.kill()
    code = finish(config, process)
    done, before = stages_done(config), scored_rows(config)
    finish(config, begin(config, ROUND))
    right = same(outcome(config, ROUND), expected)
    twice = scored_rows(config) - len(expected["scores"])
    fate = {0: "had ended", -9: "killed"}.get(code, "failed")
    line = f"{fate:9}  done: {done:32}  scored before {before:4}, twice {twice:3}"
    return right, line if right else f"{line}  NOT THE SAME"


def halves(count):
    """Return the numbers from 1 to `count`, each for "before" and, plus 0.5, for "after"."""
    return [number + half for number in range(1, count + 1) for half in (0, 0.5)]


def faults_of(writes, calls, seconds, options):
    """Yield the faults: a name, the fault for the driver, and the seconds until it is killed."""
    draw = random.Random(options.seed)
    made = {"writes": ("kill", writes), "calls": ("fail", calls)}
    for what, (kind, count) in made.items():
        for at in halves(count) if what in options.kinds else ():
            name = f"{kind} {'after' if at % 1 else 'before'} {what[:-1]} {int(at)}"
            yield name, (kind, at), None
    for _ in range(options.random if "random" in options.kinds else 0):
        after = draw.uniform(0, seconds)
        yield f"kill at {after:.1f} s", (), after


def main():
    """Run a round per fault, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--random", type=int, default=30, help="kills at random moments")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    start_ray()
    wrong = total = 0
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(Path(folder), options.images, k=10)
        seconds = 0.0
        for _ in range(2):  # Ray's first tasks take longer
            undisturbed = copy_of(config, Path(folder) / "undisturbed")
            begun = time.monotonic()
            finish(undisturbed, begin(undisturbed, ROUND))
            seconds = time.monotonic() - begun
        writes, calls = counts(undisturbed)
        expected = outcome(undisturbed, ROUND)
        print(
            f"{options.images} images, 10 picks; undisturbed {seconds:.1f} s, {writes} writes, "
            f"{calls} calls; {', '.join(options.kinds)}"
        )
        for name, fault, after in faults_of(writes, calls, seconds, options):
            copy = copy_of(config, Path(folder) / "copy")
            right, line = disturbed(copy, expected, *fault, after=after)
            total, wrong = total + 1, wrong + (not right)
            print(f"{name:22} {line}")
    print(f"{total - wrong} of {total} rounds left what an undisturbed one leaves, bit for bit")
    ray.shutdown()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
