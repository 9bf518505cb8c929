"""The share of the time that the GPU is busy, from JPEG files to scores.

Photographs of 500×375, K = 20, bfloat16. Published figures for ResNet18, one pass and no
posterior, on one L4: Ray Data 64 to 71 images per second, Daft 382 to 518.
"""

import os
import time
from dataclasses import replace
from multiprocessing import Pool

import feeding
import numpy as np
import pipeline
import pyarrow as pa
import ray
import torch
from decode import photograph
from part import Part

from baal_ray.config import PoolConfig, ResourcesConfig, ScoringConfig
from baal_ray.images import decode_many
from baal_ray.pool import list_pool, read_pool
from baal_ray.pool.decoding_task import with_area
from baal_ray.scoring.gpu_decoding import DeviceDecoder
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.scoring.stage import through_actors

IMAGES, BATCH_SIZE, PLAIN = 60_000, 256, 1_000
DAFT_ON_AN_L4 = 518


def run(part: Part) -> None:
    """Measure decoding alone, then the stage by model, two actors, and plain Ray Data."""
    rates = {"cpu": _rate_on_cpus(part), "gpu": _rate_on_device(part)}
    where = {"cpu": f"{os.cpu_count()} processes", "gpu": "one actor's decoder on the GPU"}
    for decode_on, rate in rates.items():
        label = f"decoding alone, {where[decode_on]}"
        part.report(label, rate, "images/s", note="500×375 to 224")
    feeding.start_ray()
    part.attempt("ResNet18", stage, "ResNet18", rates, ("cpu",) if part.tiny else ("gpu", "cpu"))
    part.attempt("actors that share the device", shared)
    part.attempt("two actors", two_actors)
    part.attempt("plain Ray Data", plain)
    if not part.tiny:
        part.attempt("VGG16", stage, "VGG16", rates, ("gpu",))
    ray.shutdown()


def _rate_on_cpus(part: Part) -> float:
    data, each = photograph(*feeding.PHOTOGRAPH), 8 if part.tiny else 300
    with Pool(os.cpu_count()) as processes:
        processes.map(_decode, [(data, 1)] * (os.cpu_count() or 1))
        begun = time.perf_counter()
        processes.map(_decode, [(data, each)] * (os.cpu_count() or 1), chunksize=1)
        return each * (os.cpu_count() or 1) / (time.perf_counter() - begun)


def _decode(work: tuple[bytes, int]) -> None:
    data, images = work
    decode_many([data] * images, feeding.SIDE, feeding.SIDE, max_pixels=10**8)


def _rate_on_device(part: Part) -> float:
    size, times = (8, 2) if part.tiny else (BATCH_SIZE, 40)
    encoded = pa.array([photograph(*feeding.PHOTOGRAPH)] * size, pa.binary())
    rows = with_area(pa.table({"image": encoded}), max_pixels=10**8)
    side = feeding.SIDE
    decoder = DeviceDecoder(torch.device(part.device), side, side, max_pixels=10**8)
    for _ in range(times // 10):
        decoder(rows)
    begun = time.perf_counter()
    for _ in range(times):
        decoder(rows)
    return size * times / (time.perf_counter() - begun)


def stage(part: Part, name: str, decoding: dict[str, float], places: tuple[str, ...]) -> None:
    """Measure one pass from memory, then the whole stage, with JPEGs decoded in these places."""
    size = 8 if part.tiny else BATCH_SIZE
    bare = 0.0
    for decode_on in places:
        images = 40 if part.tiny else IMAGES
        pool = pipeline.pool_of(part.folder, "photographs", images)
        pipeline.write_pool(pool, feeding.PHOTOGRAPH, images)
        job = feeding.make_job(part.folder, feeding.MODELS[name], part.device, size, decode_on)
        if not bare:
            bare = feeding.one_pass(job, seconds=1 if part.tiny else 3)
            part.report(f"{name}: one pass from memory", bare, "images/s")
            rate, busy, _ = feeding.rates(feeding.scored(job, size * (4 if part.tiny else 60)))
            note = f"busy {busy:.2f}"
            part.report(f"{name}: K = 20 from memory, one actor", rate, "images/s", note=note)
        rate, busy, calls = feeding.rates(
            feeding.stage(job, pool, part.folder / f"listing-{decode_on}")
        )
        label = f"{name}: K = 20 from files, decoded on {decode_on}"
        anchor = f">= {DAFT_ON_AN_L4}" if name == "ResNet18" else ""
        note = "the goal is Daft's one pass on an L4" if anchor else ""
        part.report(label, rate, "images/s", anchor, note)
        share = rate / min(bare, decoding[decode_on])
        part.report(f"{label}: share of the slower of decoding and one pass", share, "", ">= 0.85")
        starved = decoding[decode_on] < bare
        note = f"{calls:.2f} calls at a time"
        note += "; decoding alone is slower than one pass" if starved else ""
        part.report(f"{label}: busy fraction", busy, "", "" if starved else ">= 0.9", note)


def shared(part: Part) -> None:
    """Measure the stage with two actors on the device, where one cannot keep it busy."""
    size = 8 if part.tiny else BATCH_SIZE
    images, where = (40, "cpu") if part.tiny else (IMAGES, "gpu")
    pool = pipeline.pool_of(part.folder, "photographs", images)
    pipeline.write_pool(pool, feeding.PHOTOGRAPH, images)
    made = feeding.make_job(part.folder, feeding.MODELS["ResNet18"], part.device, size, where)
    gpus = 0.5 if part.device == "cuda" else 0
    resources = ResourcesConfig(scoring_actors=2, scoring_gpus=gpus, scoring_cpus=0.5)
    job = replace(made, resources=resources)
    rate, _, _ = feeding.rates(feeding.stage(job, pool, part.folder / "listing-shared"))
    label = f"ResNet18: K = 20 from files, decoded on {where}, two actors share it"
    part.report(label, rate, "images/s")


def two_actors(part: Part) -> None:
    """Score the same images by one actor with the whole device, and by two with half of it."""
    images, size = (16, 4) if part.tiny else (1024, 64)
    pool = pipeline.pool_of(part.folder, "photographs", images)
    pipeline.write_pool(pool, feeding.PHOTOGRAPH, images)
    listing = list_pool(PoolConfig(uri=str(pool), format="files"), str(part.folder / "two"))
    made = feeding.make_job(part.folder, feeding.MODELS["ResNet18"], part.device, size)
    gpus = 1.0 if part.device == "cuda" else 0.0
    bald = []
    for actors in (1, 2):
        resources = ResourcesConfig(
            scoring_actors=actors, scoring_gpus=gpus / actors, scoring_cpus=0.5
        )
        config = ScoringConfig(samples=5, batch_size=size)
        job = ScoringJob(made.checkpoint, config, resources, model=made.model)
        rows = through_actors(read_pool(listing), PoolScorer, job).to_pandas()
        bald.append(rows.sort_values("id")["bald"].to_numpy())
    difference = float(np.abs(bald[0] - bald[1]).max())
    part.report("two actors with half a GPU each: largest difference", difference, "nats", "== 0")


def plain(part: Part) -> None:
    """Measure what a reader of Ray's documentation would write."""
    images = 4 if part.tiny else PLAIN
    pool = pipeline.pool_of(part.folder, "photographs", images)
    pipeline.write_pool(pool, feeding.PHOTOGRAPH, images)
    gpus = 1 if part.device == "cuda" else 0
    target = part.folder / "plain"
    factory = feeding.MODELS["ResNet18"]
    seconds = pipeline.plain(pool, factory, feeding.SIDE, target, gpus=gpus)
    note = f"{images} images, start included"
    part.report("ResNet18: K = 20 by plain Ray Data", images / seconds, "images/s", note=note)
