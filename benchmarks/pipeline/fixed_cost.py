"""Measure what a round takes beyond its work: 1,000 small images, on a Ray of this machine.

Run `python benchmarks/pipeline/fixed_cost.py FOLDER`. The last result is in fixed_cost.txt.

A round is `baal-ray run` in a process of its own, from its start to its end: it starts a Ray of
two CPUs, fits, scores, selects, commits and writes the page. Its work is the same fit and the same
scoring in one process with two threads, without Ray and with the model already loaded. Both run in
turn, once with the fit in the driver and once in one worker of Ray Train. The table shows the
remaining time by stage.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml

SUPPORT = Path(__file__).parents[2] / "tests" / "support"
sys.path.insert(0, str(SUPPORT))
from pools import CLASSES, round_config, write_labelled, write_pool  # noqa: E402

IMAGES, LABELLED, SIDE, BATCH_SIZE = 1_000, 100, 12, 64


def settings_of(folder, workers):
    """Return a round's settings: 20 epochs, K = 20, one actor."""
    config = round_config(
        folder,
        selection={"k": 10},
        training={"epochs": 20, "batch_size": 32},
        scoring={"samples": 20, "batch_size": BATCH_SIZE},
        resources={"training_workers": workers, "scoring_actors": 1},
    )
    return config.model_dump(mode="json", exclude_defaults=True)


def work(folder):
    """Return the seconds of the fit and of scoring, in this process."""
    from baal_ray.checkpoint import save_checkpoint
    from baal_ray.config import RoundConfig
    from baal_ray.images import decode_many
    from baal_ray.model import build_classifier
    from baal_ray.scoring.job import ScoringJob
    from baal_ray.scoring.scorer import PoolScorer
    from baal_ray.training.optimisation import fit
    from baal_ray.workspace import checkpoint_uri

    config = RoundConfig.from_dict(settings_of(folder, 0))
    labelled = pq.read_table(folder / "labelled-9000.parquet")
    pool = pq.read_table(folder / "pool")
    begun = time.perf_counter()
    pixels_N, _ = decode_many(labelled["image"].to_pylist(), SIDE, SIDE, max_pixels=10**6)
    labels_N = torch.tensor([CLASSES.index(label) for label in labelled["label"].to_pylist()])
    model = build_classifier(config.model, len(CLASSES))
    fit(model, torch.from_numpy(pixels_N), labels_N, config.model, config.training)
    fitted = time.perf_counter()
    sha256 = save_checkpoint(str(folder / "alone"), model, config.model, CLASSES)
    checkpoint = checkpoint_uri(str(folder / "alone"), sha256)
    scorer = PoolScorer(ScoringJob(checkpoint, config.scoring))
    ids, images = (np.array(pool[name].to_pylist(), dtype=object) for name in ("id", "image"))
    loaded = time.perf_counter()
    for start in range(0, len(ids), BATCH_SIZE):
        some = slice(start, start + BATCH_SIZE)
        pixels_N, _ = decode_many(list(images[some]), SIDE, SIDE, max_pixels=10**6)
        nothing = np.array([""] * len(pixels_N), dtype=object)
        scorer({"id": ids[some], "source": ids[some], "image": pixels_N, "error": nothing})
    return {"fit": fitted - begun, "score": time.perf_counter() - loaded}


def run_round(folder, workers):
    """Return the seconds of a round, and of its stages."""
    workspace = folder / "workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    config = folder / "round.yaml"
    config.write_text(yaml.safe_dump(settings_of(folder, workers)))
    baal_ray = [sys.executable, "-m", "baal_ray"]
    labelled = str(folder / "labelled-9000.parquet")
    quietly = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    subprocess.run(
        [*baal_ray, "labels", "import", str(config), labelled, "--with-images"], **quietly
    )
    begun = time.perf_counter()
    subprocess.run([*baal_ray, "run", str(config), "--round", "first"], **quietly)
    seconds = time.perf_counter() - begun
    stages = json.loads((workspace / "rounds" / "first" / "round.json").read_text())
    return {"all": seconds, **stages["result"]["seconds"]}


def main():
    """Run both in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.work:
        print(json.dumps(work(folder)))
        return
    os.environ["RAY_AUTH_MODE"] = "disabled"
    folder.mkdir(parents=True, exist_ok=True)
    write_pool(folder, IMAGES)
    write_labelled(folder, images=LABELLED)
    for workers in (0, 1):
        rounds, alone = [], []
        for _ in range(arguments.repeats):
            rounds.append(run_round(folder, workers))
            command = [sys.executable, __file__, str(folder), "--work"]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            alone.append(json.loads(found.stdout.splitlines()[-1]))
        taken = {name: median(each[name] for each in rounds) for name in rounds[0]}
        needed = {name: median(each[name] for each in alone) for name in alone[0]}
        rest = taken["all"] - sum(taken[stage] for stage in ("fit", "score", "select"))
        beyond = median(
            each["all"] - sum(it.values()) for each, it in zip(rounds, alone, strict=True)
        )
        where = "in the driver" if workers == 0 else "in a worker of Ray Train"
        print(
            f"fit {where}: a round of {IMAGES:,} images {taken['all']:.1f} s, its work "
            f"{sum(needed.values()):.1f} s, beyond that {beyond:.1f} s:\n"
            f"  fit {taken['fit'] - needed['fit']:.1f}, score "
            f"{taken['score'] - needed['score']:.1f}, select and fetch {taken['select']:.1f}, "
            f"start of Python and Ray, plan, commit, page and end {rest:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
