"""Scoring when the memory of the GPU is full, and the memory that the engine takes."""

import logging
import math

import numpy as np
import torch
from part import Part

from baal_ray.checkpoint import save_checkpoint
from baal_ray.config import ModelConfig, ResourcesConfig, ScoringConfig
from baal_ray.errors import ResourceError
from baal_ray.model import build_classifier
from baal_ray.scoring.batch_size import fastest, try_sizes
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace import checkpoint_uri

COPIES = 4096
BYTES_PER_IMAGE = 1728 * COPIES


def run(part: Part) -> None:
    """Fill the memory, then measure it."""
    part.attempt("halving", halving)
    part.attempt("a clear error", refusal)
    part.attempt("the mini-batch size", chosen_size)
    part.attempt("many samples and classes", many)


def scorer_of(part: Part, model: ModelConfig, classes: int, **settings) -> PoolScorer:
    """Return a scoring actor, in this process, of a model with random weights."""
    torch.manual_seed(0)
    names = [str(number) for number in range(classes)]
    sha256 = save_checkpoint(str(part.folder), build_classifier(model, classes), model, names)
    resources = ResourcesConfig(scoring_gpus=1 if part.device == "cuda" else 0)
    config = ScoringConfig.model_validate(settings)
    uri = checkpoint_uri(str(part.folder), sha256)
    return PoolScorer(ScoringJob(uri, config, resources, model=model))


def hungry(part: Part, copies: int, batch_size: int) -> PoolScorer:
    """Return a scoring actor whose model takes 1,728 bytes per copy and image."""
    arguments = {"copies": copies}
    model = ModelConfig(factory="models:Hungry", arguments=arguments, image_size=12)
    return scorer_of(part, model, 3, samples=3, batch_size=batch_size)


def rows(images: int) -> dict:
    """Return a mini-batch of noise."""
    pixels_N = np.random.default_rng(0).integers(0, 256, (images, 3, 12, 12), np.uint8)
    ids = np.array([f"{number}" for number in range(images)], object)
    nothing = np.full(images, "", object)
    return {"id": ids, "source": nothing, "image": pixels_N, "error": nothing}


class Warnings(logging.Handler):
    """The messages logged while the block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())

    def __enter__(self) -> "Warnings":
        logging.getLogger("baal_ray").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("baal_ray").removeHandler(self)


def memory(part: Part) -> int:
    """Return the bytes of the GPU."""
    if part.device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return 200 * 2**20  # of a rehearsal, in which nothing runs out


def halving(part: Part) -> None:
    """Score a mini-batch that takes half as much again as there is."""
    images = math.ceil(1.5 * memory(part) / BYTES_PER_IMAGE)
    with Warnings() as logged:
        scorer = hungry(part, COPIES, images)
        scores = [scorer(rows(images))["bald"].to_numpy() for _ in range(2)]
    halved = [message for message in logged.messages if "at a time" in message]
    part.report(
        f"{images:,} images at once, for which there is no memory: times halved",
        len(halved),
        goal="" if part.tiny else ">= 1",
        note=f"peak {peak(part):.1f} of {memory(part) / 2**30:.1f} GiB",
    )
    again = len(halved) - len(set(halved))
    part.report("halved again for the second mini-batch", again, goal="== 0")
    few = hungry(part, COPIES, 32)
    expected = few({name: column[:32] for name, column in rows(images).items()})["bald"]
    difference = float(np.abs(scores[1][:32] - expected.to_numpy()).max())
    part.report("largest difference from small mini-batches", difference, "nats", "<= 1e-5")


def refusal(part: Part) -> None:
    """Score with a model for which not even two images fit."""
    copies = 64 if part.tiny else math.ceil(memory(part) / 1728)
    try:
        hungry(part, copies, 16)
        refused = ""
    except ResourceError as error:
        refused = str(error)
    goal = "" if part.tiny else "== 1"
    part.report("a model too large for two images is refused", float(bool(refused)), "", goal)
    part.report("the message", None, note=refused[:200])


def chosen_size(part: Part) -> None:
    """Let the trial choose the mini-batch size, as `scoring.batch_size: null` does."""
    network = ("small_convnet", 32) if part.tiny else ("vgg16", 224)
    model = ModelConfig(factory=network[0], image_size=network[1])
    scorer = scorer_of(part, model, 100, samples=20, batch_size=16, precision="bfloat16")
    found = try_sizes(scorer.seconds_of)
    note = ", ".join(f"{size}: {rate:,.0f}" for size, rate in found.items()) + " images/s"
    name = f"mini-batch size chosen for {network[0]} at {network[1]}, K = 20"
    part.report(name, fastest(found), "images", note=note)
    share = peak(part) / (memory(part) / 2**30)
    part.report("memory that the trial took, at most", share, "of the GPU", "<= 1")


def many(part: Part) -> None:
    """Score with K = 100 and C = 1,000."""
    model = ModelConfig(factory="small_convnet", image_size=32)
    size = 32 if part.tiny else 512
    scorer = scorer_of(part, model, 1000, samples=100, batch_size=size)
    if part.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = scorer.seconds_of(size)
    note = f"peak {peak(part):.2f} GiB; all log-probabilities would be {size * 4e5 / 2**30:.2f}"
    rate = size / seconds if seconds else None
    part.report("K = 100, C = 1,000, small_convnet at 32", rate, "images/s", note=note)


def peak(part: Part) -> float:
    """Return the most GPU memory held so far, in GiB."""
    return torch.cuda.max_memory_allocated() / 2**30 if part.device == "cuda" else 0.0
