"""A comparison of scores on the GPU with those of the CPU, for five kinds of networks."""

import copy
import os
from contextlib import nullcontext
from multiprocessing import get_context

import engine
import torch
from fitted import overlap
from part import Part

from baal_ray.posterior import MCDropout
from baal_ray.posterior.dropout.masks import SharedMasks

MODELS = ["vgg16", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "densenet121"]
SAMPLES = 5


def run(part: Part) -> None:
    """Compare the networks, each in a process, as tracing takes one core most of the time."""
    names = ["alexnet"] if part.tiny else MODELS
    threads = max(1, (os.cpu_count() or 1) // len(names))
    processes = [
        get_context("fork").Process(target=alone, args=(part, name, threads)) for name in names
    ]
    for process in processes:
        process.start()
    part.attempt("masks", masks)
    for process in processes:
        process.join()


def alone(part: Part, name: str, threads: int) -> None:
    """Compare a network in this process."""
    torch.set_num_threads(threads)
    part.attempt(name, network, name)


def masks(part: Part) -> None:
    """Compare shared masks bit by bit."""
    equal = all(
        torch.equal(
            SharedMasks(0, range(20)).keep(site, shape, p, torch.device("cpu")),
            SharedMasks(0, range(20)).keep(site, shape, p, torch.device(part.device)).cpu(),
        )
        for site, shape, p in [(0, (4096,), 0.5), (1, (512, 7, 7), 0.2), (2, (197, 768), 0.1)]
    )
    part.report("shared masks are those of the CPU, bit for bit", float(equal), goal="== 1")


def network(part: Part, name: str) -> None:
    """Compare a network with random weights in float32, TF32 and bfloat16."""
    side = 64 if part.tiny else engine.CASES[name][1]
    of_cpu = engine.build(name, "cpu", side)
    of_device = copy.deepcopy(of_cpu).to(part.device)
    images_N = torch.randn(4 if part.tiny else 8, 3, side, side)
    there_N = images_N.to(part.device)
    _tf32(False)
    with torch.inference_mode():
        expected_N_K_C = MCDropout(of_cpu, SAMPLES).log_probs(images_N)
        posterior = MCDropout(of_device, SAMPLES)
        found_N_K_C = posterior.log_probs(there_N)
        each_N_K_C = torch.stack([posterior.sample(k)(there_N) for k in range(SAMPLES)], dim=1)
        frozen, others_N = MCDropout(of_device, SAMPLES, frozen=True), there_N.flip(0)
        recorded_N_K_C = [frozen.log_probs(each_N) for each_N in (there_N, there_N, others_N)][-1]
        launched_N_K_C = posterior.log_probs(others_N)
    largest = expected_N_K_C.abs().max().item()
    for what, one, other in (
        ("the CPU", found_N_K_C.cpu(), expected_N_K_C),
        ("sample(k)", found_N_K_C, each_N_K_C),
        ("a CUDA graph", recorded_N_K_C, launched_N_K_C),
    ):
        difference = (one - other).abs().max().item() / largest
        part.report(
            f"{name}: largest difference of log-probabilities from {what}",
            difference,
            "of the largest",
            goal="<= 1e-4",
            note="float32 without TF32",
        )
    many_N = torch.randn(32 if part.tiny else 256, 3, side, side, device=part.device)
    k = len(many_N) // 8
    plain_N = bald(of_device, many_N)
    _tf32(True)
    for what, precise in (
        ("TF32", nullcontext()),
        ("bfloat16", torch.autocast(part.device, torch.bfloat16)),
    ):
        with precise:
            other_N = bald(of_device, many_N)
        part.report(
            f"{name}: share of the top {k} of {len(many_N)} that {what} keeps",
            overlap(plain_N, other_N, k),
            note="random weights: close scores are common",
        )


def bald(model, images_N):
    """Return BALD of each image, in the precision that is set."""
    posterior = MCDropout(model, samples=20, frozen=True)
    with torch.inference_mode():
        parts = [posterior.statistics(some)["bald"] for some in images_N.split(128)]
    return torch.cat(parts).float().cpu()


def _tf32(on: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on
