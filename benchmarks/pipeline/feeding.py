"""Measure how busy the scoring stage keeps a device, beside one deterministic pass.

Run `python benchmarks/pipeline/feeding.py FOLDER` on a machine with a GPU; `--device cpu --images
640` only shows that it runs. VGG16, and ResNet18 with dropout before its last layer, at 224
pixels, K = 20, bfloat16, photographs of 500×375 as JPEGs:

one pass: the model in evaluation mode, on mini-batches that are on the device already;
scored: a scoring actor's work on decoded mini-batches from memory, by two threads as in Ray;
stage: from files to scores, one actor, JPEGs decoded by tasks on CPUs or by the actor.

The rates of the last two leave out the first half of the mini-batches. Busy is the time in
which the device had a mini-batch to work on, over the time that passed. An actor that never waits
for images has two calls at a time.
"""

import argparse
import os
import sys
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
MODELS = {"VGG16": "vgg16", "ResNet18": "resnet:resnet18"}
PHOTOGRAPH = (500, 375)
SECONDS = 10.0
# So small that few images are decoded ahead while an actor starts.
STORE = 4 * 1024**3


class Watched(PoolScorer):
    """An actor that reports how long the device had each mini-batch, and when it was done."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._of_this_thread = threading.local()
        self._metrics.worked = self._note

    def _note(self, seconds):
        self._of_this_thread.seconds = seconds

    def __call__(self, rows):
        """Return one row."""
        begun = time.perf_counter()
        images = len(super().__call__(rows))
        found = {"images": images, "seconds": self._of_this_thread.seconds}
        found |= {"called": time.perf_counter() - begun, "done": time.time()}
        return pa.table({name: [value] for name, value in found.items()})


def make_job(folder, factory, device, batch_size, decode_on="cpu", side=SIDE):
    """Save a model with random weights, and return the job that scores with it."""
    model = ModelConfig(factory=factory, image_size=side)
    classes = [str(number) for number in range(CLASSES)]
    torch.manual_seed(0)
    sha256 = save_checkpoint(str(folder), build_classifier(model, CLASSES), model, classes)
    config = ScoringConfig(
        samples=SAMPLES, batch_size=batch_size, precision="bfloat16", decode_on=decode_on
    )
    resources = ResourcesConfig(scoring_gpus=1 if device == "cuda" else 0)
    return ScoringJob(checkpoint_uri(str(folder), sha256), config, resources, model=model)


def one_pass(job, seconds=SECONDS):
    """Return images per second of the plain model."""
    loaded = load_checkpoint(job.checkpoint, model=job.model)
    device = "cuda" if job.on_gpu else "cpu"
    model = loaded.classifier.to(device, memory_format=torch.channels_last).eval()
    shape = (job.config.batch_size, 3, *loaded.config.image_size)
    images_N = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    images_N = images_N.contiguous(memory_format=torch.channels_last)
    done, begun = -1, 0.0
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
        while done < 1 or time.perf_counter() - begun < seconds:
            model(images_N).sum().item()
            done += 1
            if done == 0:  # the first one prepares
                begun = time.perf_counter()
    return done * job.config.batch_size / (time.perf_counter() - begun)


def scored(job, images):
    """Score mini-batches from memory, by two threads."""
    scorer = Watched(job)
    size, side = job.config.batch_size, job.model.image_size
    ids = np.array([str(number) for number in range(size)], dtype=object)
    nothing = np.array([""] * size, dtype=object)
    pixels_N = np.random.default_rng(0).integers(0, 256, (size, 3, *side), dtype=np.uint8)
    rows = {"id": ids, "source": nothing, "image": pixels_N, "error": nothing}
    with ThreadPoolExecutor(THREADS) as threads:
        parts = threads.map(scorer, [rows] * (images // size))
        return pa.concat_tables(parts).to_pandas()


def stage(job, folder, listing):
    """Score the image files of a folder by the whole stage."""
    pool = read_pool(list_pool(PoolConfig(uri=str(folder), format="files"), str(listing)))
    rows = through_actors(pool, Watched, job).materialize()
    print(rows.stats(), file=sys.stderr)
    return rows.to_pandas()


def rates(batches: pd.DataFrame):
    """Return images per second, the busy fraction, and the calls at a time, once started."""
    batches = batches.sort_values("done").reset_index(drop=True)
    start = len(batches) // 2
    later = batches[start + 1 :]
    passed = later["done"].iloc[-1] - batches["done"][start]
    return tuple(later[name].sum() / passed for name in ("images", "seconds", "called"))


def start_ray():
    """Start Ray on this machine. Its workers find the modules beside this one."""
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    ray.init(
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        object_store_memory=STORE,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments = parser.parse_args()
    folder, device = arguments.folder.resolve(), arguments.device
    pool = pool_of(folder, "500×375", arguments.images)
    write_pool(pool, PHOTOGRAPH, arguments.images)
    hardware = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{hardware}, {os.cpu_count()} cores, torch {torch.__version__}, Ray {ray.__version__}")
    start_ray()
    for name in arguments.models:
        job = make_job(folder, MODELS[name], device, arguments.batch_size)
        bare = one_pass(job)
        print(f"{name}, one pass {bare:22.0f} images per second", flush=True)
        arms = {"scored, from memory": lambda job=job: scored(job, arguments.images)}
        for decode_on in ("cpu", "gpu"):
            each = make_job(folder, MODELS[name], device, arguments.batch_size, decode_on)
            arms[f"stage, decoded on {decode_on}"] = lambda each=each: stage(
                each, pool, folder / "listing"
            )
        for arm, run in arms.items():
            rate, busy, calls = rates(run())
            print(
                f"{name}, {arm:23} {rate:8.0f}, {rate / bare:.2f} of one pass, busy {busy:.2f}, "
                f"{calls:.2f} calls at a time",
                flush=True,
            )
    ray.shutdown()


if __name__ == "__main__":
    main()
