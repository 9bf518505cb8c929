"""Time scoring in stages against flat scoring, and compare both rankings with that of K = 1,000.

Run `python benchmarks/experiments/stages.py IMAGES.parquet`, with `image` and `label` columns.
stages.txt has the last results. The model has dropout in every layer, so little of it runs once.
The reference is drawn with masks of its own. Tracing the model, once per process, is not timed.
"drawn again" is a plan whose later stages do not keep the samples of earlier ones. stages.txt
was made before these plans were added.
"""

import argparse
import time
from pathlib import Path
from statistics import fmean

import torch
from fitted import accuracy, densenet, fit, overlap, read_images

from baal_ray.acquisition import bald
from baal_ray.posterior import MCDropout

REFERENCE = 1000
# By name: per stage, the posterior samples in all, and the share of the pool that gets them.
PLANS = {
    "100": [(100, 1.0)],
    "8, 100 for 5 %": [(8, 1.0), (100, 0.05)],
    "8, 100 for 15 %": [(8, 1.0), (100, 0.15)],
    "8, 20 for 30 %, 50 for 15 %, 100 for 5 %": [(8, 1.0), (20, 0.3), (50, 0.15), (100, 0.05)],
}
AGAIN = ", drawn again"
for _plan in list(PLANS)[1:]:
    PLANS[_plan + AGAIN] = PLANS[_plan]
TOPS = (0.0025, 0.005, 0.01, 0.02)  # of the pool
MINI_BATCH = 50  # divides what any stage draws for, so that one trace serves all


def draw(posterior, images_N, first_N_K_C=None):
    """Draw the samples after the first ones, a mini-batch at a time."""
    first = [None] * len(images_N) if first_N_K_C is None else first_N_K_C.split(MINI_BATCH)
    return torch.cat(
        [
            posterior.log_probs(some, first_N_K_C=drawn)
            for some, drawn in zip(images_N.split(MINI_BATCH), first, strict=False)
        ]
    )


def score(plan, posteriors, images_N, keep=True):
    """Score as planned, keeping the samples of earlier stages or drawing them again.

    Returns:
        BALD of the last stage's candidates from all samples; −1 for the other images.
    """
    candidates = torch.arange(len(images_N))
    log_probs_N_K_C = None
    for samples, share in plan:
        if log_probs_N_K_C is not None:
            best = bald(log_probs_N_K_C).topk(round(share * len(images_N))).indices
            candidates, log_probs_N_K_C = candidates[best], log_probs_N_K_C[best]
        first_N_K_C = log_probs_N_K_C if keep else None
        log_probs_N_K_C = draw(posteriors[samples], images_N[candidates], first_N_K_C)
    scores_N = torch.full((len(images_N),), -1.0)
    scores_N[candidates] = bald(log_probs_N_K_C)
    return scores_N


def forward_passes(plan, keep):
    """Return the mean number of forward passes per image of the pool."""
    before = [0, *(samples if keep else 0 for samples, _ in plan)]
    return sum((plan[i][0] - before[i]) * plan[i][1] for i in range(len(plan)))


def timed(function, *arguments):
    """Call a function, and return its result and the seconds that it took."""
    begun = time.perf_counter()
    return function(*arguments), time.perf_counter() - begun


def main():
    """Run every plan for every seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="Parquet with `image` and `label`")
    parser.add_argument("--pool", type=int, default=3000, help="a multiple of 1,000")
    parser.add_argument("--labelled", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    images_N, labels_N = read_images(options.images, options.pool + options.labelled, seed=0)
    labelled, pool = slice(0, options.labelled), slice(options.labelled, None)
    model = densenet(int(labels_N.max()) + 1)
    fit(model, images_N[labelled], labels_N[labelled], options.epochs)
    pool_N = images_N[pool]
    print(
        f"{'/'.join(Path(options.images).parts[-2:])}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print(
        f"DenseNet with dropout in each of 12 layers, fitted on {options.labelled} images; "
        f"accuracy {accuracy(model, pool_N, labels_N[pool]):.3f} on a pool of {len(pool_N)}"
    )
    posterior = MCDropout(model, REFERENCE, seed=10_000)
    reference_N = torch.cat([posterior.statistics(some)["bald"] for some in pool_N.split(50)])
    seconds = {name: [] for name in PLANS}
    overlaps = {name: [] for name in PLANS}
    for seed in range(options.seeds):
        posteriors = {
            samples: MCDropout(model, samples, seed)
            for samples in {samples for plan in PLANS.values() for samples, _ in plan}
        }
        for name, plan in PLANS.items():
            keep = AGAIN not in name
            score(plan, posteriors, pool_N[:1000], keep)  # traces
            scores_N, took = timed(score, plan, posteriors, pool_N, keep)
            seconds[name].append(took)
            tops = [round(top * len(pool_N)) for top in TOPS]
            overlaps[name].append([overlap(scores_N, reference_N, k) for k in tops])
    report(seconds, overlaps)


def report(seconds, overlaps):
    """Print a line per plan, with means over the seeds."""
    flat, *_ = PLANS
    tops = "".join(f"  top {top:.2%}" for top in TOPS)
    print(
        f"{len(seconds[flat])} seeds; overlap of the top with that of K = {REFERENCE}, other masks"
    )
    print(f"{'posterior samples':55}    s  times faster  by count{tops}")
    for name, plan in PLANS.items():
        faster = fmean(f / s for f, s in zip(seconds[flat], seconds[name], strict=True))
        by_count = forward_passes(PLANS[flat], True) / forward_passes(plan, AGAIN not in name)
        found = "".join(f"{fmean(of_top):11.3f}" for of_top in zip(*overlaps[name], strict=True))
        print(f"{name:55}{fmean(seconds[name]):5.1f}{faster:14.2f}{by_count:10.2f}{found}")


if __name__ == "__main__":
    main()
