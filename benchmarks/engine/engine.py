"""Time BALD by Monte Carlo dropout in baal_ray, baal and plain PyTorch, and one pass without it.

Run `python benchmarks/engine/engine.py`. On a GPU, add `--device cuda --mini-batch 128 --images
1024`, and `--precision bfloat16` to run every arm under autocast. All arms take the same model,
images and K, one after the other in one process. The weights are random, and the warm-up sees none
of the images that are timed. Exit status 1 means that the arms' mean BALD differs by more than
Monte Carlo error explains (checked if K >= 10).

`python benchmarks/engine/engine.py --memory` instead measures the resident memory that scoring
10,000 images in 1,000 classes takes, each arm in a process of its own. This needs Linux, and baal
needs 20 GB.
"""

import argparse
import copy
import json
import logging
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import structlog
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.densenet import _DenseLayer

from baal_ray.posterior import MCDropout

CLASSES = 100
# By name: the model, the pixels per side of its images, and a mini-batch for two cores.
CASES = {
    "vgg16_32": (models.vgg16, 32, 128),
    "vgg16": (models.vgg16, 224, 8),
    "alexnet": (models.alexnet, 224, 32),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 224, 32),
    "efficientnet_b0": (models.efficientnet_b0, 224, 16),
    "densenet121": (partial(models.densenet121, drop_rate=0.2), 224, 8),
    "vit_b_16": (partial(models.vit_b_16, dropout=0.1), 224, 4),
}
WARM_UP_SAMPLES = 4  # baal_ray alone warms up with all K
ROUNDING = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}  # relative, of mean BALD


@dataclass
class Arm:
    """A way to score images: from images and K to their BALD, or to None without dropout."""

    run: Callable[[Tensor, int], Tensor | None]
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    bald: float | None = None
    kept_bytes: int = 0  # of GPU memory, from one run to the next
    peak_bytes: int = 0  # the same above model, images and what other arms keep

    def warm_up(self, images, samples):
        """Run once, and return the seconds."""
        before = torch.cuda.memory_allocated() if images.is_cuda else 0
        _, seconds = timed(self.run, images, samples)
        self.kept_bytes = torch.cuda.memory_allocated() - before if images.is_cuda else 0
        return seconds

    def measure(self, images, samples):
        """Run once more, and note the time, the memory and the mean BALD."""
        if images.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() - self.kept_bytes
        bald_N, seconds = timed(self.run, images, samples)
        self.seconds.append(seconds)
        self.bald = None if bald_N is None else bald_N.double().mean().item()
        if images.is_cuda:
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated() - before)


def build(name, device, side=None):
    """Build a model with random weights whose activations and predictions are not all alike."""
    torch.manual_seed(0)
    make, usual_side, _ = CASES[name]
    side = side or usual_side
    model = make(num_classes=CLASSES).to(device)
    images = torch.randn(8, 3, side, side, device=device)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # these images' own statistics
    with torch.no_grad():
        model.train()(images)
        *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
        nn.init.normal_(last.weight)
        nn.init.zeros_(last.bias)
        with dropout_on(model.eval()):
            last.weight /= model(images).std()  # so that BALD is neither 0 nor at its limit, ln K
    return model


def for_baal(model, *, caching):
    """Copy a model for baal, which replaces modules. The copy shares the weights."""
    # baal is imported only where it is used, as the other arms do without it.
    from baal.bayesian.caching_utils import MCCachingModule
    from baal.bayesian.dropout import MCDropoutModule

    weights = [*model.parameters(), *model.buffers()]
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in weights})
    for module in list(model.modules()):
        if isinstance(module, _DenseLayer):  # baal does not see dropout that is a function
            module.conv2 = nn.Sequential(module.conv2, nn.Dropout(module.drop_rate))
            module.drop_rate = 0.0
        if caching and isinstance(module, (nn.Hardswish, nn.Dropout)):
            module.inplace = False  # else it would change the outputs that are cached
    model = MCDropoutModule(model)
    if caching:
        model = MCCachingModule(model)
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):  # it reads this layer's weight itself
                module.out_proj = module.out_proj.module
    model.register_forward_hook(lambda *call: call[-1].float())  # NumPy has no bfloat16
    return model


@contextmanager
def dropout_on(model):
    """Put the modules that drop out in training mode, and all others in evaluation mode."""
    for module in model.modules():
        if isinstance(module, (_DropoutNd, _DenseLayer)):
            module.training = True  # not train(), which would reach a dense layer's BatchNorm
    try:
        yield
    finally:
        model.eval()


def no_gradients(images):
    """Return a context without gradients.

    It is inference mode, or no_grad under autocast: there, inference mode would cast all weights
    in every pass.
    """
    autocast = torch.is_autocast_enabled(images.device.type)
    return torch.no_grad() if autocast else torch.inference_mode()


def one_pass(model, mini_batch, images, _samples, memory_format=torch.contiguous_format):
    """Predict once without dropout, the least that drawing K samples can cost."""
    with no_gradients(images):
        for images_N in images.split(mini_batch):
            model(images_N.contiguous(memory_format=memory_format)).float().softmax(dim=1)


def plain_loop(model, mini_batch, images, samples):
    """Run K passes per mini-batch and sum them as they come. Each image has masks of its own."""
    bald = []
    with no_gradients(images), dropout_on(model):
        for images_N in images.split(mini_batch):
            sum_N_C, entropy_N = 0, 0
            for _ in range(samples):
                probs_N_C = model(images_N).float().softmax(dim=1)
                sum_N_C = sum_N_C + probs_N_C
                entropy_N = entropy_N + torch.special.entr(probs_N_C).sum(dim=1)
            predictive_entropy_N = torch.special.entr(sum_N_C / samples).sum(dim=1)
            bald.append(predictive_entropy_N - entropy_N / samples)
    return torch.cat(bald)


def baal_ray(posterior, mini_batch, images, _samples):
    """Score as the scoring stage does. K is the posterior's."""
    return torch.cat([posterior.statistics(x)["bald"] for x in images.split(mini_batch)])


def baal(model, mini_batch, images, samples, replicate=True, stream=False):
    """Score with baal's wrapper and its heuristic, which turns logits into probabilities.

    With replication, a step takes as many images as fill a mini-batch with their copies.
    Replicating a whole mini-batch would need K times the memory.
    """
    from baal.active.heuristics import BALD
    from baal.bayesian.caching_utils import LRUCacheModule
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    for module in model.modules():
        if isinstance(module, LRUCacheModule):  # it may hold these very images from the last run
            module._memory_input = module._memory_output = None
    arguments = TrainingArgs(
        batch_size=max(1, mini_batch // samples) if replicate else mini_batch,
        use_cuda=images.is_cuda,
        workers=0,
        replicate_in_memory=replicate,
    )
    wrapper = ModelWrapper(model, arguments)
    predict = wrapper.predict_on_dataset_generator if stream else wrapper.predict_on_dataset
    predictions = predict(TensorDataset(images), samples, verbose=False)
    return torch.from_numpy(BALD().get_ranks(predictions)[1])


def timed(run, *arguments):
    """Run a function, and return its result and the seconds that it took."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    result = run(*arguments)
    synchronize()
    return result, time.perf_counter() - start


def faster_baal(model, mini_batch, images_N, precise):
    """Return the faster arm of baal, with copies in memory or with K passes.

    Each runs twice, and the second run counts.
    """
    arms = {}
    for replicate in (True, False):
        run = precise(partial(baal, model, mini_batch, replicate=replicate))
        *_, seconds = (timed(run, images_N, WARM_UP_SAMPLES)[1] for _ in range(2))
        arms[seconds] = Arm(run, "replicated" if replicate else "not replicated")
    return arms[min(arms)]


def make_arms(model, posterior, mini_batch, images_N, precise):
    """Return all arms by name."""
    last = torch.channels_last
    of_last, cached = copy.deepcopy(model).to(memory_format=last), for_baal(model, caching=True)
    runs = {
        "one pass": partial(one_pass, model, mini_batch),
        "one pass, channels_last": partial(one_pass, of_last, mini_batch, memory_format=last),
        "baal_ray": partial(baal_ray, posterior, mini_batch),
        "PyTorch loop": partial(plain_loop, model, mini_batch),
        "baal, MCCachingModule": partial(baal, cached, mini_batch, replicate=False),
    }
    arms = {name: Arm(precise(run)) for name, run in runs.items()}
    of_baal = for_baal(model, caching=False)
    return {**arms, "baal": faster_baal(of_baal, mini_batch, images_N, precise)}


def standard_errors(log_probs_N_K_C, images):
    """Return the errors of mean BALD, with masks that images share and with masks of their own.

    The errors are from the jackknife, by BALD of all samples but one. Shared masks move all images
    together, so their error falls with K alone.
    """
    samples = log_probs_N_K_C.shape[1]
    probs_N_K_C = log_probs_N_K_C.double().exp()
    entropy_N_K = torch.special.entr(probs_N_K_C).sum(dim=2)
    rest_N_K_C = (probs_N_K_C.sum(dim=1, keepdim=True) - probs_N_K_C).clamp(min=0) / (samples - 1)
    rest_N_K = (entropy_N_K.sum(dim=1, keepdim=True) - entropy_N_K) / (samples - 1)
    bald_N_K = torch.special.entr(rest_N_K_C).sum(dim=2) - rest_N_K
    shared = bald_N_K.mean(dim=0).var(correction=0) * (samples - 1)
    own = bald_N_K.var(dim=1, correction=0).mean() * (samples - 1) / images
    return shared.sqrt().item(), own.sqrt().item()


def disagreements(arms, shared, own, rounding):
    """Yield the arms whose mean BALD differs by more than Monte Carlo error explains."""
    bald = {name: arm.bald for name, arm in arms.items() if arm.bald is not None}
    reference = next((name for name in bald if name != "baal_ray"), "baal_ray")
    for name, value in bald.items():
        error = ((shared if name == "baal_ray" else own) ** 2 + own**2) ** 0.5
        allowed = 4 * error + rounding * bald[reference]
        if not abs(value - bald[reference]) <= allowed:
            yield f"{name} {value:.4f}, {reference} {bald[reference]:.4f}, allowed {allowed:.4f}"


def count(arm, *arguments):
    """Count the floating-point operations in products of matrices and in convolutions."""
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not see into it
    by_onednn = {torch.ops.mkldnn._linear_pointwise: linear_operations}
    with FlopCounterMode(display=False, custom_mapping=by_onednn) as counter:
        arm.run(*arguments)
    torch.backends.mha.set_fastpath_enabled(True)
    return counter.get_total_flops()


def linear_operations(x_shape, weight_shape, *_others, **_kwargs):
    """Count the operations of a linear layer by oneDNN, which PyTorch's counter leaves out."""
    return 2 * math.prod(x_shape) * weight_shape[0]


def print_table(arms, images):
    """Print a row per arm. The ratio is to one pass."""
    gpu = any(arm.peak_bytes for arm in arms.values())
    header = f"{'':<24}{'seconds':>10}{'images/s':>10}{'ratio':>9}{'repeats':>9}{'BALD':>9}"
    print(header + (f"{'GPU MiB':>9}" if gpu else ""))
    for name, arm in arms.items():
        if not arm.seconds:
            print(f"{name:<24}{'skipped':>10}")
            continue
        seconds = median(arm.seconds)
        ratio = seconds / median(arms["one pass"].seconds)
        row = f"{name:<24}{seconds:>10.3f}{images / seconds:>10.1f}{ratio:>9.2f}"
        row += f"{len(arm.seconds):>9}{'-' if arm.bald is None else f'{arm.bald:.4f}':>9}"
        row += f"{arm.peak_bytes / 2**20:>9.0f}" if gpu else ""
        print(f"{row}  {arm.note}".rstrip())


def compare(name, model, samples, skipped, options):
    """Time all arms on one model and K, and return the arms and those that disagree."""
    _, side, default = CASES[name]
    images = options.images or options.mini_batch or default
    mini_batch = min(images, options.mini_batch or default)
    images -= images % mini_batch  # a smaller last one would need a set-up of its own
    pool = torch.randn(mini_batch + images, 3, side, side, device=options.device)
    images_N, pool = pool[:mini_batch], pool[mini_batch:]
    posterior = MCDropout(model, samples=samples)
    precise = torch.autocast(
        options.device, getattr(torch, options.precision), options.precision != "float32"
    )
    arms = make_arms(model, posterior, mini_batch, images_N, precise)
    first = {key: arm.warm_up(images_N, WARM_UP_SAMPLES) for key, arm in arms.items()}
    for _ in range(options.repeats):
        for key, arm in arms.items():
            if key not in skipped and sum(arm.seconds) < options.arm_seconds:
                arm.measure(pool, samples)
    operations = [count(arms[key], images_N, samples) for key in ("one pass", "baal_ray")]
    errors = standard_errors(precise(posterior.log_probs)(images_N), images)
    wrong = []
    if samples >= 10:  # of fewer the standard error is itself too unsure
        wrong = list(disagreements(arms, *errors, ROUNDING[options.precision]))

    print(f"\n{name} at {side}, K = {samples}: {images} images in mini-batches of {mini_batch}")
    print_table(arms, images)
    later = median(arms["baal_ray"].seconds) * mini_batch / images
    print(f"baal_ray's first mini-batch {first['baal_ray']:.3f} s, later ones {later:.3f} s")
    print(f"by count of multiplications {operations[1] / operations[0]:.3f}")
    print("standard error of BALD: shared masks {:.4f}, each image's own {:.4f}".format(*errors))
    for line in wrong:
        print(f"MEAN BALD DISAGREES: {line}")
    return arms, wrong


def slow(arms, growth, limit):
    """Return the arms with K passes that are too slow if K grows by this factor."""
    return {
        name
        for name in ("PyTorch loop", "baal", "baal, MCCachingModule")
        if not arms[name].seconds or median(arms[name].seconds) * growth > limit
    }


def compare_all(options):
    """Run every case, and return all disagreements."""
    wrong = []
    for name in options.models:
        model, skipped = build(name, options.device), set()
        for samples, larger in pairwise([*sorted(options.samples), 0]):
            arms, disagreeing = compare(name, model, samples, skipped, options)
            wrong += disagreeing
            if options.skip_slow:
                skipped = slow(arms, larger / samples, options.arm_seconds)
    return wrong


def score_for_memory(arm, images, samples):
    """Score random images by one arm, and print the MiB above the start, and the seconds."""
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    trunk += [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*trunk, nn.Dropout(), nn.Linear(2048, 1000)).eval()
    pool = torch.randn(images, 3, 32, 32)
    runs = {
        "baal_ray": partial(baal_ray, MCDropout(model, samples=samples), 128),
        "baal": partial(baal, for_baal(model, caching=False), 128),
        "baal, generator": partial(baal, for_baal(model, caching=False), 128, stream=True),
    }
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    _, seconds = timed(runs[arm], pool, samples)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps([(peak - before) / 2**20, seconds]))


def compare_memory(options):
    """Score a pool by each arm, in a process per arm."""
    images, samples = options.images or 10_000, max(options.samples)
    print(f"\nscoring {images} images, K = {samples}, 1,000 classes, in mini-batches of 128")
    print(f"{'':<24}{'peak MiB':>10}{'ratio':>9}{'seconds':>10}")
    unit = None
    for arm in ("baal_ray", "baal", "baal, generator"):
        command = [sys.executable, __file__, "--memory-arm", arm, "--images", str(images)]
        command += ["--samples", str(samples), "--threads", str(options.threads)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        mib, seconds = json.loads(output.splitlines()[-1])
        unit = unit or mib
        print(f"{arm:<24}{mib:>10.0f}{mib / unit:>9.1f}{seconds:>10.1f}")


def hardware(options):
    """Return a line about the hardware and the settings."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    processor = (names or [platform.processor()])[0]
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    return (
        f"{gpu}{processor}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {options.precision}"
    )


def parse():
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--samples", nargs="+", type=int, default=[20, 100], help="values of K")
    parser.add_argument("--images", type=int, help="default: one mini-batch")
    parser.add_argument("--mini-batch", type=int, help="default: by model, for two cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm-seconds", type=float, default=60, help="no repeats beyond")
    parser.add_argument("--skip-slow", action="store_true", help="arms beyond that at a larger K")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=ROUNDING, default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="resident memory instead of time")
    parser.add_argument("--memory-arm", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Print the tables, and return exit status 1 if mean BALD disagrees."""
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(options.threads)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if options.memory_arm:
        return score_for_memory(options.memory_arm, options.images, max(options.samples))
    print(hardware(options))
    if options.memory:
        return compare_memory(options)
    wrong = compare_all(options)
    return f"mean BALD disagrees in {len(wrong)} places" if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
