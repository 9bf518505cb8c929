"""Measure how busy the scoring stage keeps a device, and compare it with one deterministic pass.

Run `python benchmarks/pipeline/feeding.py FOLDER` on a machine with a GPU. `--device cpu --images
640` only shows that it runs. The model is VGG16 at 224 pixels, with K = 20 and bfloat16. The
images are JPEGs of photographs of 500×375:

one pass: the model in evaluation mode, on mini-batches that are already on the device;
scored: a scoring actor's work on decoded mini-batches from memory, by two threads as in Ray;
stage: from files to scores, one actor, JPEGs decoded by tasks on CPUs or by the actor.

The rates of the last two leave out the first quarter of the mini-batches. Busy is the time in
which the device had a mini-batch to work on, divided by the time that passed.
"""

import argparse
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
from pipeline import pool_of, write_pool

from baal_ray.checkpoint import load_checkpoint, save_checkpoint
from baal_ray.config import ModelConfig, PoolConfig, ResourcesConfig, ScoringConfig
from baal_ray.model import build_classifier
from baal_ray.pool import list_pool, read_pool
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.scoring.stage import through_actors
from baal_ray.workspace import checkpoint_uri

SIDE, SAMPLES, CLASSES, THREADS = 224, 20, 10, 2
PHOTOGRAPH = (500, 375)
SECONDS = 10.0


class Watched(PoolScorer):
    """An actor that returns each mini-batch's seconds on the device, and the time of its end."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._of_this_thread = threading.local()
        self._metrics.worked = self._note

    def _note(self, seconds):
        self._of_this_thread.seconds = seconds

    def __call__(self, rows):
        """Score a mini-batch, and return a row about it."""
        images = len(super().__call__(rows))
        seconds = self._of_this_thread.seconds
        return pa.table({"images": [images], "seconds": [seconds], "done": [time.time()]})


def one_pass(checkpoint, config, device):
    """Return the images per second of the plain model."""
    model = load_checkpoint(checkpoint).classifier.to(device).eval()
    shape = (config.batch_size, 3, SIDE, SIDE)
    images_N = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    done, begun = -1, 0.0
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        while done < 1 or time.perf_counter() - begun < SECONDS:
            model(images_N).sum().item()
            done += 1
            if done == 0:  # the first one prepares
                begun = time.perf_counter()
    return done * config.batch_size / (time.perf_counter() - begun)


def scored(checkpoint, config, device, images):
    """Score mini-batches from memory, by two threads, and return their times."""
    scorer = Watched(checkpoint, config, 0, device == "cuda")
    ids = np.array([str(number) for number in range(config.batch_size)], dtype=object)
    nothing = np.array([""] * config.batch_size, dtype=object)
    pixels_N = np.random.default_rng(0).integers(
        0, 256, (config.batch_size, 3, SIDE, SIDE), dtype=np.uint8
    )
    rows = {"id": ids, "source": nothing, "image": pixels_N, "error": nothing}
    with ThreadPoolExecutor(THREADS) as threads:
        parts = threads.map(scorer, [rows] * (images // config.batch_size))
        return pa.concat_tables(parts).to_pandas()


def stage(checkpoint, config, device, folder, listing):
    """Run the whole stage, and return the times of its mini-batches."""
    pool = read_pool(list_pool(PoolConfig(uri=str(folder), format="files"), str(listing)))
    resources = ResourcesConfig(scoring_gpus=1 if device == "cuda" else 0)
    return through_actors(pool, Watched, ScoringJob(checkpoint, config, resources)).to_pandas()


def rates(batches: pd.DataFrame):
    """Return the images per second and the busy fraction, without the first quarter."""
    batches = batches.sort_values("done").reset_index(drop=True)
    start = len(batches) // 4
    later = batches[start + 1 :]
    passed = later["done"].iloc[-1] - batches["done"][start]
    return later["images"].sum() / passed, later["seconds"].sum() / passed


def main():
    """Run every arm, and print its rate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    arguments = parser.parse_args()
    folder, device = arguments.folder.resolve(), arguments.device
    pool = pool_of(folder, "500×375", arguments.images)
    write_pool(pool, PHOTOGRAPH, arguments.images)
    model = ModelConfig(factory="vgg16", image_size=SIDE)
    classes = [str(number) for number in range(CLASSES)]
    torch.manual_seed(0)
    sha256 = save_checkpoint(str(folder), build_classifier(model, CLASSES), model, classes)
    checkpoint = checkpoint_uri(str(folder), sha256)
    config = ScoringConfig(samples=SAMPLES, batch_size=arguments.batch_size, precision="bfloat16")
    hardware = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{hardware}, {os.cpu_count()} cores, torch {torch.__version__}, Ray {ray.__version__}")
    bare = one_pass(checkpoint, config, device)
    print(f"one pass                {bare:8.0f} images a second", flush=True)

    def tell(name, batches):
        rate, busy = rates(batches)
        print(f"{name:23} {rate:8.0f}, {rate / bare:.2f} of one pass, busy {busy:.2f}", flush=True)

    tell("scored, from memory", scored(checkpoint, config, device, arguments.images))
    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for decode_on in ("cpu", "gpu"):
        each = config.model_copy(update={"decode_on": decode_on})
        tell(
            f"stage, decoded on {decode_on}",
            stage(checkpoint, each, device, pool, folder / "listing"),
        )
    ray.shutdown()


if __name__ == "__main__":
    main()
