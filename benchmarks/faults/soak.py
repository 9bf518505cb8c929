"""Run a hundred rounds of one small project, kill their drivers at random, and check the outcome.

Run `python benchmarks/faults/soak.py`. soak.txt has the last result. Each round's driver is killed
by SIGKILL at a random moment, with probability 1/2 each time that it is started, until one ends by
itself. Then an oracle answers. Exit status 1 means that an image was lost, acquired twice or
picked wrongly.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import ray
from rounds import answer, begin, finish, manifest_of, prepare, scored_rows, start_ray

from baal_ray.selection import top_k


def run_to_its_end(config, round_id, draw, longest):
    """Run a round until a driver ends by itself, and return how many were killed."""
    kills = 0
    while True:
        process = begin(config, round_id)
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, longest))
            process.kill()
        if finish(config, process) == 0:
            return kills
        kills += 1


def faults(config, rounds, k, before):
    """List what is wrong with the last round, given the ids acquired before it."""
    round_id = rounds[-1]
    rows = manifest_of(config).rows(round_id=round_id).sort_by("rank")
    folder = Path(config.workspace, "rounds", round_id)
    record, plan = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("round", "plan")
    )
    ranking = top_k(record["scores"], 10**6, seed=plan["seed"])["id"].to_pylist()
    best = [image for image in ranking if image not in before][:k]
    if rows["id"].to_pylist() != best:
        yield f"{round_id} picked {rows['id'].to_pylist()}; the best were {best}"
    batch = pq.read_table(folder / "batch")
    if sorted(batch["id"].to_pylist()) != sorted(best):
        yield f"{round_id}: its batch holds {batch['id'].to_pylist()}"


def main():
    """Run all rounds, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    start_ray()
    draw, wrong = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as folder:
        config = prepare(Path(folder), options.images, options.k)
        begun, kills, longest, rounds = time.monotonic(), Counter(), 15.0, []
        for number in range(1, options.rounds + 1):
            rounds.append(f"round-{number:03}")
            before = set(manifest_of(config).ids().to_pylist())
            start = time.monotonic()
            killed = run_to_its_end(config, rounds[-1], draw, longest)
            if not killed:
                longest = time.monotonic() - start
            kills[killed] += 1
            wrong += faults(config, rounds, options.k, before)
            answer(config, rounds[-1])
            if number % 10 == 0:
                total = sum(times * count for times, count in kills.items())
                minutes = (time.monotonic() - begun) / 60
                print(f"{number} rounds, {total} kills, {minutes:.1f} min, {len(wrong)} faults")
        rows = manifest_of(config).rows()
        acquired = Counter(rows["round"].to_pylist())
        short = [name for name in rounds if acquired[name] != options.k]
        ids = rows["id"].to_pylist()
        print(f"rounds by kills: {', '.join(f'{n}: {kills[n]}' for n in sorted(kills))}")
        print(f"manifest: {len(ids)} rows, {len(set(ids))} ids, rounds without k picks: {short}")
        print(f"score rows: {scored_rows(config)}")
    for fault in wrong:
        print(fault)
    ray.shutdown()
    return 1 if wrong or short or len(ids) != len(set(ids)) else 0


if __name__ == "__main__":
    sys.exit(main())
