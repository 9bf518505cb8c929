"""Compare the whole scoring stage with its work alone, and with plain Ray.

Run `python benchmarks/pipeline/pipeline.py FOLDER`. It writes its pools there, and keeps them. For
each pool three arms run in turn:

alone: decoding and scoring images in one process on one thread, the model loaded and warm, and
  memory kept as actors keep it;
stage: `score_pool` on a local Ray of two CPUs, from the listing of files to score files;
plain: what a reader of Ray's documentation would write, `read_images` → an actor that runs the
  model K times → `write_parquet`, on the same Ray.

Efficiency is the CPU time alone, divided by the CPU time that all cores had while the stage ran,
including the start and end of its actors. "once started" is the same without the time that 64
images take. "alone" and "plain" run on a part of the pool. To be fair to plain Ray, the time that
each takes for 64 images is subtracted from both before their rates are compared.

`--daft PYTHON` compares the stage with Daft instead: our K samples of ResNet18 with dropout before
its last layer, and one pass of it in Daft without a posterior (`one_pass_in_daft.py`). Both are
whole processes, start included.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
import ray
import torch
from decode import photograph
from PIL import Image

from baal_ray.checkpoint import save_checkpoint
from baal_ray.cluster import runtime_env
from baal_ray.config import ModelConfig, PoolConfig, ResourcesConfig, ScoringConfig
from baal_ray.images import decode_many
from baal_ray.model import build_classifier
from baal_ray.pool import list_pool, read_pool
from baal_ray.scoring import score_pool
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace import checkpoint_uri

CORES, SAMPLES, CLASSES = 2, 20, 10
BATCH_SIZE = 64
MOST_LINKS = 50_000  # names of one file, of which file systems allow a limited number

# By name: pixels of the files, number of files, the model, the pixels per side of its input, and
# the number of files for "alone" and "plain".
POOLS = {
    "12 megapixels": ((4000, 3000), 7_200, "small_convnet", 224, 600),
    "500×375": ((500, 375), 36_000, "small_convnet", 224, 600),
    "VGG16 at 32": ((32, 32), 40_000, "vgg16", 32, 800),
}
BESIDE_DAFT = {"ResNet18": ((500, 375), 8_000, "resnet:resnet18", 224, 0)}
HERE = Path(__file__).resolve().parent


def write_pool(folder, size, count):
    """Write one photograph under many names. Each file is decoded, but it is read from memory."""
    if folder.exists() and len(list(folder.iterdir())) == count:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if min(size) > 100:
        data = photograph(*size)
    else:
        buffer = BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
    for number in range(count):
        first = folder / f"{number // MOST_LINKS * MOST_LINKS:06d}.jpg"
        if number % MOST_LINKS:
            (folder / f"{number:06d}.jpg").hardlink_to(first)
        else:
            first.write_bytes(data)


def pool_of(folder, name, images):
    """Return the folder of the pool with this number of images."""
    return folder / f"{name.replace(' ', '-')}-{images}"


def alone(folder, checkpoint, model):
    """Return the CPU seconds of decoding and scoring all files."""
    torch.set_num_threads(1)
    config = ScoringConfig(samples=SAMPLES, batch_size=BATCH_SIZE)
    scorer = PoolScorer(ScoringJob(checkpoint, config, model=model))
    files = sorted(folder.iterdir())
    nothing = np.array([""] * BATCH_SIZE, dtype=object)

    def run(some):
        pixels_N, _ = decode_many(
            [file.read_bytes() for file in some], *model.image_size, max_pixels=10**8
        )
        ids = np.array([file.name for file in some], dtype=object)
        scorer({"id": ids, "source": ids, "image": pixels_N, "error": nothing[: len(some)]})

    run(files[:BATCH_SIZE])
    begun = time.process_time()
    for start in range(0, len(files), BATCH_SIZE):
        run(files[start : start + BATCH_SIZE])
    return time.process_time() - begun


def stage(folder, checkpoint, model, target):
    """Return the wall seconds of the scoring stage, with an actor per core."""
    listing = list_pool(PoolConfig(uri=str(folder), format="files"), str(target))
    begun = time.perf_counter()
    scores = score_pool(
        read_pool(listing),
        checkpoint,
        str(target),
        config=ScoringConfig(samples=SAMPLES, batch_size=BATCH_SIZE),
        resources=ResourcesConfig(scoring_actors=CORES, scoring_cpus=0.5),
        model=model,
    )
    assert scores.scored == listing.rows
    return time.perf_counter() - begun


class Plain:
    """An actor as in Ray's examples: K passes of the model, and BALD of the softmax."""

    def __init__(self, factory, side, device="cpu"):
        model = build_classifier(ModelConfig(factory=factory, image_size=side), CLASSES)
        self._model, self._device = model.eval().to(device), device
        for module in self._model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.train()

    def __call__(self, batch):
        """Return the rows of `path` and `bald`."""
        images_N = torch.from_numpy(np.ascontiguousarray(batch["image"].transpose(0, 3, 1, 2)))
        images_N = images_N.to(self._device)
        with torch.inference_mode():
            probs = torch.stack([self._model(images_N).softmax(-1) for _ in range(SAMPLES)], dim=1)
        probs = probs.cpu()
        mean = probs.mean(1)
        entropy = -(mean * mean.clamp_min(1e-12).log()).sum(-1)
        expected = -(probs * probs.clamp_min(1e-12).log()).sum(-1).mean(1)
        return {"path": batch["path"], "bald": (entropy - expected).numpy()}


def plain(folder, factory, side, target, gpus=0):
    """Return the wall seconds of the script that a user would write."""
    begun = time.perf_counter()
    (
        ray.data.read_images(str(folder), size=(side, side), mode="RGB", include_paths=True)
        .map_batches(
            Plain,
            fn_constructor_args=(factory, side, "cuda" if gpus else "cpu"),
            batch_size=BATCH_SIZE,
            num_cpus=1,
            num_gpus=gpus or None,
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .write_parquet(str(target))
    )
    return time.perf_counter() - begun


def run_arm(arm, name, folder, images):
    """Run an arm in this process, and print its seconds."""
    _, _, factory, side, _ = {**POOLS, **BESIDE_DAFT}[name]
    pool, scratch = pool_of(folder, name, images), folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    torch.manual_seed(0)
    config = ModelConfig(factory=factory, image_size=side)
    classes = [str(number) for number in range(CLASSES)]
    sha256 = save_checkpoint(str(scratch), build_classifier(config, CLASSES), config, classes)
    checkpoint = checkpoint_uri(str(scratch), sha256)
    if arm == "alone":
        seconds = alone(pool, checkpoint, config)
    else:
        os.environ["PYTHONPATH"] = str(HERE)  # where Ray's workers find resnet.py
        ray.init(
            num_cpus=CORES, include_dashboard=False, logging_level="ERROR", log_to_driver=False
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        target = scratch / arm
        seconds = (
            stage(pool, checkpoint, config, target)
            if arm == "stage"
            else plain(pool, factory, side, target)
        )
        ray.shutdown()
    print(json.dumps(seconds))


def measure(arm, name, folder, images):
    """Return the images per second (of CPU, for "alone") of an arm in a process of its own."""
    command = [sys.executable, __file__, folder, "--pools", name, "--arm", arm]
    # What our actors have too, so that the stage is not the faster for it.
    side = POOLS[name][3]
    kept = runtime_env(0, [side, side])["env_vars"]
    variables = {**os.environ, **kept} if arm == "alone" else None
    seconds = _run(command, images, variables)
    return images / seconds, seconds


def _run(command, images, variables=None):
    """Run this script for one arm in a process of its own, and return its seconds."""
    found = subprocess.run(
        [*command, "--images", str(images)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=variables,
    )
    return json.loads(found.stdout.strip().splitlines()[-1])


def compare_with_daft(folder, python, repeats):
    """Run our stage and Daft in turn, and print images per second."""
    ((name, (size, images, *_)),) = BESIDE_DAFT.items()
    pool = pool_of(folder, name, images)
    write_pool(pool, size, images)
    version = subprocess.run(
        [python, "-c", "import daft; print(daft.__version__)"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    print(f"{images:,} photographs of 500×375, {name} at 224, start included; Daft {version}")
    rates = {f"stage, K = {SAMPLES}": [], "Daft, one pass": []}
    for _ in range(repeats):
        for of_arm, arm in zip(rates.values(), ("stage", "daft"), strict=True):
            begun = time.perf_counter()
            if arm == "stage":
                _run([sys.executable, __file__, folder, "--pools", name, "--arm", arm], images)
            else:
                target = folder / "scratch" / "daft"
                subprocess.run(
                    [python, HERE / "one_pass_in_daft.py", pool, target],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            of_arm.append(images / (time.perf_counter() - begun))
    for label, of_arm in rates.items():
        each = ", ".join(f"{rate:.1f}" for rate in of_arm)
        print(f"{label:18} {median(of_arm):8.1f} images per second ({each})", flush=True)


def main():
    """Run all arms on all pools, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    choices = {**POOLS, **BESIDE_DAFT}
    parser.add_argument("--pools", nargs="+", choices=choices, default=list(POOLS))
    parser.add_argument("--daft", metavar="PYTHON", help="an interpreter that has Daft")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=["alone", "stage", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    if arguments.arm:
        run_arm(arguments.arm, arguments.pools[0], folder, arguments.images)
        return
    print(f"torch {torch.__version__}, Ray {ray.__version__}, {CORES} cores, K = {SAMPLES}")
    if arguments.daft:
        compare_with_daft(folder, arguments.daft, arguments.repeats)
        return
    for name in arguments.pools:
        size, count, _, _, part = POOLS[name]
        for images in (count, part, BATCH_SIZE):
            write_pool(pool_of(folder, name, images), size, images)
        efficiencies, once_started, ratios = [], [], []
        for _ in range(arguments.repeats):
            cpu_rate, _ = measure("alone", name, folder, part)
            rate, seconds = measure("stage", name, folder, count)
            plain_rate, plain_seconds = measure("plain", name, folder, part)
            _, start = measure("stage", name, folder, BATCH_SIZE)
            _, plain_start = measure("plain", name, folder, BATCH_SIZE)
            efficiencies.append(rate / (CORES * cpu_rate))
            a_row = (seconds - start) / (count - BATCH_SIZE)
            once_started.append(1 / a_row / (CORES * cpu_rate))
            plain_a_row = (plain_seconds - plain_start) / (part - BATCH_SIZE)
            ratios.append(plain_a_row / a_row)
            print(
                f"{name:14} alone {cpu_rate:8.1f} a CPU second, stage {rate:8.1f} a second "
                f"({seconds:.0f} s), plain Ray {plain_rate:8.1f}",
                flush=True,
            )
        print(
            f"{name:14} {count:,} images: efficiency {median(efficiencies):.2f}, once started "
            f"{median(once_started):.2f}; {median(ratios):.1f} times plain Ray",
            flush=True,
        )


if __name__ == "__main__":
    main()
