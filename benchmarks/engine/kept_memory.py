"""Measure what it saves to keep the memory of large tensors in processes without a GPU.

Run `python benchmarks/engine/kept_memory.py`. The last result is in kept_memory.txt.

The table gives CPU milliseconds on one thread for scoring a mini-batch of 64 images with a small
convnet at K = 20, and for a training step of 32, by the pixels per side. Each runs in a process of
its own, in a thread as in Ray, in turn with and without the environment that baal_ray gives its
actors. Memory is the most that the process ever held.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
from statistics import median

import numpy as np
import torch

from baal_ray.checkpoint import save_checkpoint
from baal_ray.cluster import runtime_env
from baal_ray.config import ModelConfig, ScoringConfig
from baal_ray.model import build_classifier
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace import checkpoint_uri

SIDES = (12, 32, 224)
BATCH_SIZE, TRAINED, TIMES = 64, 32, 10
CLASSES = [str(number) for number in range(10)]


def score(folder, side):
    """Return a function that scores a mini-batch, to be called again and again."""
    config = ModelConfig(image_size=side)
    sha256 = save_checkpoint(folder, build_classifier(config, len(CLASSES)), config, CLASSES)
    config = ScoringConfig(samples=20, batch_size=BATCH_SIZE)
    scorer = PoolScorer(ScoringJob(checkpoint_uri(folder, sha256), config))
    shape = (BATCH_SIZE, 3, side, side)
    ids = np.array(CLASSES[:1] * BATCH_SIZE, dtype=object)
    nothing = np.array([""] * BATCH_SIZE, dtype=object)
    pixels_N = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return lambda: scorer({"id": ids, "source": ids, "image": pixels_N, "error": nothing})


def train(_, side):
    """Return a function that takes a training step, to be called again and again."""
    model = build_classifier(ModelConfig(image_size=side), len(CLASSES)).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    images_N = torch.randint(0, 256, (TRAINED, 3, side, side), dtype=torch.uint8)
    labels_N = torch.randint(0, len(CLASSES), (TRAINED,))

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images_N), labels_N).backward()
        optimizer.step()

    return step


ARMS = {"score": score, "train": train}


def run_arm(name, side):
    """Run an arm in this process, and print CPU milliseconds per call and MiB as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        call = ARMS[name](folder, side)
        for _ in range(3):
            call()
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(TIMES):
            call()
        after = resource.getrusage(resource.RUSAGE_SELF)
    computing, kernel = (
        1000 * (getattr(after, of) - getattr(before, of)) / TIMES
        for of in ("ru_utime", "ru_stime")
    )
    print(json.dumps([computing, kernel, after.ru_maxrss / 1024]))


def measure(name, side, variables):
    """Run an arm in a process of its own, and return its measurements."""
    command = [sys.executable, __file__, "--arm", name, "--side", str(side)]
    found = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )
    return json.loads(found.stdout.splitlines()[-1])


def main():
    """Run every case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        thread = threading.Thread(target=run_arm, args=(arguments.arm, arguments.side))
        thread.start()
        thread.join()
        return
    ways = {"given back": {}, "kept": runtime_env(0, [SIDES[-1]] * 2)["env_vars"]}
    print(f"torch {torch.__version__}; median of {arguments.repeats}, in turn")
    print("       pixels  memory       computing  in the kernel   at most")
    for name, side in itertools.product(ARMS, SIDES):
        runs = [
            {way: measure(name, side, ways[way]) for way in ways} for _ in range(arguments.repeats)
        ]
        for way in ways:
            computing, kernel, mib = map(median, zip(*(run[way] for run in runs), strict=True))
            print(
                f"{name}  {side:6}  {way:10} {computing:8.1f} ms  {kernel:10.1f} ms  "
                f"{mib:5.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
