"""Measure what a fit on few labels gains from more optimisation steps, with all other defaults.

Run `python benchmarks/experiments/fit_steps.py fit_steps.csv`, with further data sets as
`--set NAME=FILE.parquet` (`image` and `label`). The digits of scikit-learn are always among them.
The file keeps one line per fit. If it has some already, only the others are made. The last result
is in fit_steps.csv and, as a table, in fit_steps.txt. Use it to choose `training.min_steps`.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from baal_ray.config import ModelConfig, TrainingConfig
from baal_ray.images import decode_many, encode_png
from baal_ray.model import build_classifier
from baal_ray.posterior import MCDropout
from baal_ray.training.evaluation import evaluation_sums, metrics
from baal_ray.training.optimisation import fit, steps_of_fit

SEEDS = {20: 3, 100: 2, 500: 2}  # by number of labels; fewer labels are noisier
EVALUATION, SAMPLES = 1000, 20
MODEL = ModelConfig(image_size=[16, 16])
SAME_FIT = ["set", "labels", "seed", "steps"]


def digits():
    """Return the encoded images and the labels of scikit-learn's digits."""
    found = load_digits()
    pixels_N = (found.images * 255 / 16).astype(np.uint8)
    return [encode_png(image) for image in pixels_N], found.target


def read(path):
    """Return the encoded images and the labels of a Parquet file."""
    table = pq.read_table(path, columns=["image", "label"])
    return table["image"].to_pylist(), table["label"].to_numpy().astype(np.int64)


def measure(encoded, labels_N, labels, seed, training):
    """Fit on this number of labels, stratified by class, and measure on other images."""
    rows, held_out = train_test_split(
        np.arange(len(labels_N)),
        train_size=labels,
        test_size=EVALUATION,
        stratify=labels_N,
        random_state=seed,
    )

    def tensors(some):
        pixels, _ = decode_many([encoded[i] for i in some], *MODEL.image_size, max_pixels=10**6)
        return torch.from_numpy(pixels), torch.from_numpy(labels_N[some])

    torch.manual_seed(seed)
    classifier = build_classifier(MODEL, int(labels_N.max()) + 1)
    fit(classifier, *tensors(rows), MODEL, training)
    images_N, truth_N = tensors(held_out)
    predictions = MCDropout(classifier, SAMPLES, seed).predict(images_N)
    bald_N = predictions.bald()
    figures = metrics(evaluation_sums(predictions, truth_N))
    return {
        "accuracy": figures["accuracy"],
        "nll": figures["nll"],
        "mean_bald": bald_N.mean().item(),
        "highest_bald": bald_N.max().item(),
    }


def complete(path, sets, many_min_steps):
    """Make the fits that the file lacks, and add a line for each."""
    for name, (encoded, labels_N) in sets.items():
        for labels, seeds in SEEDS.items():
            for min_steps in many_min_steps:
                training = TrainingConfig(min_steps=min_steps)
                steps = steps_of_fit(labels, training)
                for seed in range(seeds):
                    fitted = {"set": name, "labels": labels, "seed": seed, "steps": steps}
                    if not is_in(path, fitted):
                        figures = measure(encoded, labels_N, labels, seed, training)
                        line = pd.DataFrame([fitted | figures]).round(4)
                        line.to_csv(path, mode="a", header=not path.exists(), index=False)


def is_in(path, fitted):
    """Return whether the file has a line for this fit."""
    done = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=SAME_FIT)
    return (done[SAME_FIT] == pd.Series(fitted)).all(axis=1).any()


def main():
    """Make the fits, and print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--set", action="append", default=[], help="NAME=FILE.parquet")
    parser.add_argument(
        "--min-steps",
        type=int,
        nargs="+",
        default=[0, 300, 1000, 3000],
        help="values of the setting to compare; with 0, each epoch is one pass",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    others = dict(one.split("=", 1) for one in options.set)
    sets = {"digits": digits()} | {name: read(path) for name, path in others.items()}
    complete(options.file, sets, options.min_steps)
    found = pd.read_csv(options.file).drop(columns="seed")
    print(found.groupby(["set", "labels", "steps"], sort=True).mean().round(3).to_string())


if __name__ == "__main__":
    main()
