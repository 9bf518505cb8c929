"""The cost of K posterior samples on the GPU, in forward passes of the same network.

Both run in bfloat16 with channels last, each at its best mini-batch size. A pass runs the network
converted to bfloat16, or under autocast, whichever is faster.
"""

import copy
from functools import partial

import engine
import torch
from part import Part

from baal_ray.posterior import MCDropout

# Network, K, and the goal in passes.
CASES = [
    ("vgg16", 20, "<= 1.05"),
    ("mobilenet_v3_large", 20, "<= 1.10"),
    ("efficientnet_b0", 20, "<= 1.10"),
    ("vgg16", 100, "<= 1.10"),
    ("vit_b_16", 20, ""),
    ("densenet121", 20, ""),
    ("mobilenet_v3_large", 100, ""),
    ("efficientnet_b0", 100, ""),
]
SIZES = (256, 512)
# Networks with dropout throughout, all of which runs K times.
LOOPED = ("vit_b_16", "densenet121")
SIZES_LOOPED = (128, 256)
WITH_BAAL = ("vgg16",)


def run(part: Part) -> None:
    """Time each network, then the peers where they are of interest."""
    for name, samples, goal in [("alexnet", 5, "")] if part.tiny else CASES:
        part.attempt(f"{name}, K = {samples}", network, name, samples, goal)
    for name in ["alexnet"] if part.tiny else [*LOOPED, *WITH_BAAL]:
        part.attempt(f"{name}, peers", peers, name, 5 if part.tiny else 20)


def network(part: Part, name: str, samples: int, goal: str) -> None:
    """Time one pass and K samples."""
    side, model, label = _case(part, name, samples)
    single, size = _fastest(part, partial(_one_pass, part, model), name)
    part.report(f"{label}: one pass", 1 / single, "images/s", note=f"mini-batch {size}")
    posterior = MCDropout(model, samples, frozen=True)
    ours, size = _fastest(part, partial(_ours, part, posterior), name)
    peak = torch.cuda.max_memory_allocated() / 2**30 if part.device == "cuda" else 0
    note = f"{1 / ours:,.0f} images/s, mini-batch {size}, peak {peak:.1f} GiB"
    part.report(f"{label}: baal_ray", ours / single, "passes", goal, note)
    (draw,) = _ours(part, posterior, torch.randn(size, 3, side, side, device=part.device))
    for _ in range(4):  # until it is recorded again
        draw()
    part.profile(f"{label}, mini-batch {size}", draw)


def peers(part: Part, name: str, samples: int) -> None:
    """Time a plain loop of K passes, or baal with and without its cache."""
    _, model, label = _case(part, name, samples)
    single, _ = _fastest(part, partial(_one_pass, part, model), name)
    arms = {}
    if name in LOOPED or part.tiny:
        arms["plain loop"] = partial(_loop, part, model, samples)
    if name in WITH_BAAL or part.tiny:
        for title, caching in (("baal 2.1", False), ("baal 2.1 with its cache", True)):
            other = engine.for_baal(model, caching=caching)
            arms[title] = partial(_baal, part, other, samples, not caching)
    for title, arm in arms.items():
        seconds, size = _fastest(part, arm, name)
        part.report(f"{label}: {title}", seconds / single, "passes", note=f"mini-batch {size}")


def _case(part: Part, name: str, samples: int):
    """Return the pixels per side, the model and the label of a case."""
    side = 64 if part.tiny else engine.CASES[name][1]
    return side, engine.build(name, part.device, side), f"{name} at {side}, K = {samples}"


def _fastest(part: Part, make, name: str) -> tuple[float, int]:
    """Return the fewest seconds per image over mini-batch sizes, and the size."""
    found = []
    side = 64 if part.tiny else engine.CASES[name][1]
    if part.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for size in (4, 8) if part.tiny else SIZES_LOOPED if name in LOOPED else SIZES:
        images_N = torch.randn(size, 3, side, side, device=part.device)
        try:
            seconds = min(part.seconds(run, 3) for run in make(images_N))
        except torch.OutOfMemoryError:
            break
        found.append((seconds / size, size))
        if part.left < 5 or (len(found) > 1 and found[-1][0] > 1.02 * found[-2][0]):
            break
    return min(found)


def _autocast(part: Part):
    return torch.autocast(part.device, torch.bfloat16)


def _one_pass(part: Part, model, images_N):
    """Yield a pass under autocast, and one of the network in bfloat16."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    of_last_N = images_N.contiguous(memory_format=torch.channels_last)
    halved, halved_N = copy.deepcopy(last).bfloat16(), of_last_N.bfloat16()

    def under_autocast():
        with torch.no_grad(), _autocast(part):
            last(of_last_N).float().softmax(dim=1)

    def in_16_bits():
        with torch.inference_mode():
            halved(halved_N).float().softmax(dim=1)

    yield under_autocast
    yield in_16_bits


def _ours(part: Part, posterior, images_N):
    """Yield K samples as a scoring actor draws them."""

    def run():
        with torch.no_grad(), _autocast(part):
            posterior.statistics(images_N)

    yield run


def _loop(part: Part, model, samples, images_N):
    """Yield K passes with dropout on."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    of_last_N = images_N.contiguous(memory_format=torch.channels_last)

    def run():
        with _autocast(part):
            engine.plain_loop(last, len(of_last_N), of_last_N, samples)

    yield run


def _baal(part: Part, model, samples, replicate, images_N):
    """Yield baal's scoring of images that are on the device."""

    def run():
        with _autocast(part):
            engine.baal(model, len(images_N), images_N, samples, replicate=replicate)

    yield run
