"""Time two-stage scoring against flat scoring, and hold the picks of both against K = 1,000.

Run `python benchmarks/two_stage.py IMAGES.parquet`, with `image` and `label` columns; the last
result is in two_stage.txt. The model has dropout in every layer, so little of it runs once.
The reference is drawn with masks of its own.
"""

import argparse
import statistics
import time

import torch
from fitted import accuracy, densenet, fit, overlap, read_images

from baal_ray.acquisition import bald
from baal_ray.posterior import MCDropout

FIRST, SECOND, REFERENCE = 8, 100, 1000
SHARE = 0.05
MINI_BATCH = 128


def flat(posterior, images_N):
    """Score every image with all samples."""
    return torch.cat([posterior.statistics(some)["bald"] for some in images_N.split(MINI_BATCH)])


def two_stage(few, many, images_N):
    """Score with few samples, then draw the others for the most informative images.

    Returns:
        BALD of the candidates from all samples; −1 for the other images.
    """
    first_N_K_C = torch.cat([few.log_probs(some) for some in images_N.split(MINI_BATCH)])
    candidates = bald(first_N_K_C).topk(round(SHARE * len(images_N))).indices
    scores_N = torch.full((len(images_N),), -1.0)
    for some in candidates.split(MINI_BATCH):
        predictions = many.predict(images_N[some], first_N_K_C=first_N_K_C[some])
        scores_N[some] = predictions.bald()
    return scores_N


def prepared(model, samples, seed, images_N):
    """Give a posterior that has seen mini-batches of the sizes that are timed."""
    posterior = MCDropout(model, samples, seed)
    candidates = round(SHARE * len(images_N))
    for size in {MINI_BATCH, len(images_N) % MINI_BATCH, candidates % MINI_BATCH} - {0}:
        posterior.log_probs(images_N[:size])
    return posterior


def timed(score, *arguments):
    """Give the result and the seconds it took."""
    begun = time.perf_counter()
    return score(*arguments), time.perf_counter() - begun


def line(name, row):
    """Format a row of the table."""
    flat_s, staged_s, faster, *overlaps = row
    pairs = zip(overlaps[::2], overlaps[1::2], strict=True)
    tops = "".join(f"        {flat:.3f}  {staged:.3f}" for flat, staged in pairs)
    return f"{name}  {flat_s:6.1f}  {staged_s:11.1f}  {faster:12.2f}{tops}"


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="Parquet with `image` and `label`")
    parser.add_argument("--pool", type=int, default=4000)
    parser.add_argument("--labelled", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--k", type=int, nargs="+", default=[15, 30, 60], help="sizes of the top")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    images_N, labels_N = read_images(options.images, options.pool + options.labelled, seed=0)
    labelled, pool = slice(0, options.labelled), slice(options.labelled, None)
    model = densenet(int(labels_N.max()) + 1)
    fit(model, images_N[labelled], labels_N[labelled], options.epochs)
    pool_N = images_N[pool]
    print(
        f"DenseNet with dropout in each of 12 layers, fitted on {options.labelled} images: "
        f"accuracy {accuracy(model, pool_N, labels_N[pool]):.3f} on a pool of {len(pool_N)}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    reference_N, seconds = timed(flat, MCDropout(model, REFERENCE, seed=10_000), pool_N)
    print(
        f"reference: K = {REFERENCE}, other masks, {seconds:.0f} s. Overlaps with it:", flush=True
    )
    tops = "".join(f"  top {k:3d} flat, staged" for k in options.k)
    print(f"seed  flat s  two-stage s  times faster{tops}")
    rows = []
    for seed in range(options.seeds):
        few, many = (prepared(model, samples, seed, pool_N) for samples in (FIRST, SECOND))
        flat_N, flat_s = timed(flat, many, pool_N)
        staged_N, staged_s = timed(two_stage, few, many, pool_N)
        overlaps = [
            overlap(scores_N, reference_N, k) for k in options.k for scores_N in (flat_N, staged_N)
        ]
        rows.append([flat_s, staged_s, flat_s / staged_s, *overlaps])
        print(line(f"{seed:4d}", rows[-1]), flush=True)
    print(line("mean", [statistics.fmean(column) for column in zip(*rows, strict=True)]))
    passes = FIRST + SHARE * (SECOND - FIRST)
    print(f"limit by count of forward passes: {SECOND / passes:.2f} times faster")


if __name__ == "__main__":
    main()
