"""Measure how alike a model finds images of one class, the nearest of others, and noisy copies.

Run `python benchmarks/experiments/likeness.py TRAIN.parquet` with MNIST's training set of `image`
and `label`. The last result is in likeness.txt. Use it to choose `selection.most_alike`.
"""

import argparse

import numpy as np
import pyarrow.parquet as pq
import torch
from networks import BatchBALDNet

from baal_ray.config import ModelConfig, TrainingConfig
from baal_ray.images import decode_many
from baal_ray.model import ImageClassifier
from baal_ray.posterior.head_inputs import features
from baal_ray.training.optimisation import fit

LABELS, IMAGES = (20, 150), 1000
NOISE = 0.1  # standard deviation, of normalised pixels
MEAN, STD = [0.1307] * 3, [0.3081] * 3


def read(path):
    """Return the needed images, uint8 [N, 3, 28, 28], and their labels, in random order."""
    table = pq.read_table(path, columns=["image", "label"])
    order = np.random.default_rng(0).permutation(len(table))[: max(LABELS) + IMAGES]
    table = table.take(order)
    pixels, _ = decode_many(table["image"].to_pylist(), 28, 28, max_pixels=10**6)
    labels = table["label"].to_numpy().astype(np.int64)
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def line(name, values):
    """Print the quantiles of some similarities."""
    low, middle, high = np.quantile(values.numpy(), [0.05, 0.5, 0.95])
    print(f"  {name:26} {low:7.4f}  {middle:7.4f}  {high:7.4f}")


def compare(classifier, images_N, labels_N):
    """Print how alike images, their neighbours and their copies are."""
    grey_N = torch.randn(len(images_N), 1, 28, 28, generator=torch.Generator().manual_seed(0))
    noisy_N = images_N + grey_N * NOISE * STD[0] * 255
    copies_N = noisy_N.round().clamp(0, 255).to(torch.uint8)
    of_images, of_copies = (
        torch.nn.functional.normalize(features(classifier, some, "logits"))
        for some in (images_N, copies_N)
    )
    likeness_N_N = of_images @ of_images.t()
    likeness_N_N.fill_diagonal_(-1)
    same_N_N = labels_N.unsqueeze(1) == labels_N
    line("of another class", likeness_N_N[~same_N_N])
    line("of the same class", likeness_N_N[same_N_N & (likeness_N_N > -1)])
    line(f"nearest of {len(images_N) - 1}", likeness_N_N.amax(dim=1))
    line("noisy copy", (of_images * of_copies).sum(dim=1))


def main():
    """Fit the models, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("train")
    images_N, labels_N = read(parser.parse_args().train)
    training = TrainingConfig(
        epochs=100, min_steps=0, batch_size=32, learning_rate=3e-3, weight_decay=1e-4
    )
    print(f"cosine of features by quantile{'5 %':>8}{'50 %':>9}{'95 %':>9}")
    for labels in LABELS:
        torch.manual_seed(0)
        classifier = ImageClassifier(BatchBALDNet(10), MEAN, STD)
        fit(classifier, images_N[:labels], labels_N[:labels], ModelConfig(), training)
        print(f"fitted on {labels} digits")
        compare(classifier, images_N[max(LABELS) :], labels_N[max(LABELS) :])


if __name__ == "__main__":
    main()
