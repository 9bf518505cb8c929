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
SIZES = (64, 128, 256, 512)
LOOPED = ("vit_b_16", "densenet121")
WITH_BAAL = ("vgg16",)


def run(part: Part) -> None:
    """Time each network."""
    for name, samples, goal in [("alexnet", 5, "")] if part.tiny else CASES:
        part.attempt(f"{name}, K = {samples}", network, name, samples, goal)


def network(part: Part, name: str, samples: int, goal: str) -> None:
    """Time one pass, K samples, and the peers where they are of interest."""
    side = 64 if part.tiny else engine.CASES[name][1]
    model = engine.build(name, part.device, side)
    label = f"{name} at {side}, K = {samples}"
    single, size = _fastest(part, partial(_one_pass, part, model), side)
    part.report(f"{label}: one pass", 1 / single, "images/s", note=f"mini-batch {size}")
    posterior = MCDropout(model, samples, frozen=True)
    ours, size = _fastest(part, partial(_ours, part, posterior), side)
    peak = torch.cuda.max_memory_allocated() / 2**30 if part.device == "cuda" else 0
    note = f"{1 / ours:,.0f} images/s, mini-batch {size}, peak {peak:.1f} GiB"
    part.report(f"{label}: baal_ray", ours / single, "passes", goal, note)
    if samples > 20:
        return
    if name in LOOPED or part.tiny:
        loop, size = _fastest(part, partial(_loop, part, model, samples), side)
        part.report(f"{label}: plain loop", loop / single, "passes", note=f"mini-batch {size}")
    if name in WITH_BAAL or part.tiny:
        for caching in (False, True):
            other = engine.for_baal(model, caching=caching)
            peer, size = _fastest(part, partial(_baal, part, other, samples, not caching), side)
            title = f"baal 2.1{' with its cache' if caching else ''}"
            part.report(f"{label}: {title}", peer / single, "passes", note=f"mini-batch {size}")


def _fastest(part: Part, make, side: int) -> tuple[float, int]:
    """Return the fewest seconds per image over mini-batch sizes, and the size."""
    found = []
    for size in (4, 8) if part.tiny else SIZES:
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
