"""Show what 16-bit forward passes do to the ranking: overlap of the top k with float32's.

Run `python benchmarks/experiments/precision.py IMAGES.parquet`, with `image` and `label` columns.
The last result is in precision.txt. The effect is compared with that of other posterior samples:
float32 with another seed.
"""

import argparse
import statistics
from contextlib import nullcontext

import torch
from fitted import accuracy, densenet, fit, overlap, read_images
from torchvision.models import mobilenet_v3_small, vgg11_bn

from baal_ray.posterior import MCDropout

MINI_BATCH = 128
MODELS = {
    "DenseNet, dropout throughout": densenet,
    "VGG11 with batch norm": lambda classes: vgg11_bn(num_classes=classes),
    "MobileNetV3-small": lambda classes: mobilenet_v3_small(num_classes=classes),
}


def score(model, images_N, samples, seed, dtype=None):
    """Return BALD and its standard error for every image, in 16 bits if a type is given."""
    posterior = MCDropout(model, samples, seed)
    parts = []
    with torch.autocast("cpu", dtype) if dtype else nullcontext():
        for some in images_N.split(MINI_BATCH):
            columns = posterior.statistics(some)
            parts.append(torch.stack([columns["bald"], columns["bald_std_error"]]))
    return torch.cat(parts, dim=1)


def main():
    """Fit the model, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="Parquet with `image` and `label`")
    parser.add_argument("--pool", type=int, default=3000)
    parser.add_argument("--labelled", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=["bfloat16"], help="float16 is slow on CPU")
    options = parser.parse_args()
    images_N, labels_N = read_images(options.images, options.pool + options.labelled, seed=0)
    labelled, pool = slice(0, options.labelled), slice(options.labelled, None)
    print(
        f"Top {options.k} of {options.pool} by BALD, K = {options.samples}, "
        f"{options.seeds} seeds; torch {torch.__version__}, CPU"
    )
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build(int(labels_N.max()) + 1)
        fit(model, images_N[labelled], labels_N[labelled], options.epochs)
        correct = accuracy(model, images_N[pool], labels_N[pool])
        print(f"\n{name}, accuracy {correct:.3f}", flush=True)
        rows = {arm: [] for arm in (*options.types, "float32, other samples")}
        for seed in range(options.seeds):
            bald_N, std_error_N = score(model, images_N[pool], options.samples, seed)
            others = {arm: (seed, getattr(torch, arm)) for arm in options.types}
            others["float32, other samples"] = (seed + 1000, None)
            for arm, how in others.items():
                other_N, _ = score(model, images_N[pool], options.samples, *how)
                difference_N = (other_N - bald_N).abs()
                rows[arm].append(
                    (
                        overlap(bald_N, other_N, options.k),
                        difference_N.mean().item(),
                        (difference_N.mean() / std_error_N.mean()).item(),
                    )
                )
        print(f"{'':24}  overlap  mean difference  of its standard error")
        for arm, of_seeds in rows.items():
            means = map(statistics.fmean, zip(*of_seeds, strict=True))
            print("{:24}  {:7.3f}  {:15.5f}  {:21.3f}".format(arm, *means), flush=True)


if __name__ == "__main__":
    main()
