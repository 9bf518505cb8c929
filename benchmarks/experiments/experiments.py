"""Learning curves of acquisition rules against random picks, on public images.

Run `python benchmarks/experiments/experiments.py mnist DATA FOLDER`. DATA is a folder with
`mnist/`, `cifar100/` and `cifar10-airplane-cat-truck/`, each of Parquet files `train*` and `test*`
of `id`, `image` and `label`. FOLDER is the folder for the results. A run that was killed continues
from there. The last results are beside this script.
"""

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.labels_needed import labels_needed
from baal_ray.experiment.run import run_experiment
from baal_ray.experiment.verdicts import verdicts
from baal_ray.images import decode_many, encode_png

GREY = {"mean": [0.1307] * 3, "std": [0.3081] * 3}
COLOUR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}


def mnist(data, folder):
    """Return BatchBALD's protocol and network: 60,000 digits, 2 labels per class, 10 per round."""
    return {
        "classes": [str(digit) for digit in range(10)],
        "labelled": one(data / "mnist", "train"),
        "rules": ["random", "bald", "power_bald", "batch_bald"],
        "seeds": 5,
        "start": 2,
        "k": 10,
        "rounds": 18,
        "scored": 4000,
        "accuracies": [0.8, 0.85, 0.9, 0.95],
        "model": {"factory": "networks:BatchBALDNet", "image_size": 28, **GREY},
        "training": {
            "evaluation_set": one(data / "mnist", "test"),
            "epochs": 100,
            "min_steps": 0,  # the results are older than this setting
            "batch_size": 32,
            "learning_rate": 3e-3,
            "weight_decay": 1e-4,
            "evaluation_samples": 5,
        },
        "scoring": {"samples": 20, "batch_size": 250},
    }


def mnist_300(data, folder):
    """Return the same with two rules, up to 300 labels, measured by 20 samples instead of 5."""
    settings = mnist(data, folder)
    return {
        **settings,
        "rules": ["random", "power_bald"],
        "rounds": 28,
        "training": {**settings["training"], "evaluation_samples": 20},
    }


def repeated_mnist(data, folder):
    """Return five noisy copies of each of 1,200 digits, few enough that all are candidates."""
    digits = pq.read_table(one(data / "mnist", "train"), columns=["id", "image", "label"])
    rng = np.random.default_rng(0)
    digits = digits.take(rng.permutation(len(digits))[:1200])
    pixels, _ = decode_many(digits["image"].to_pylist(), 28, 28, max_pixels=10**6)
    # Of a standard deviation of 0.1 of the normalised pixels, as published.
    noise = 0.1 * 0.3081 * 255
    copies = []
    for copy in range(5):
        noisy = np.clip(pixels[:, 0] + rng.normal(0, noise, pixels[:, 0].shape), 0, 255)
        images = [encode_png(image) for image in noisy.round().astype(np.uint8)]
        ids = [f"{image_id}#{copy}" for image_id in digits["id"].to_pylist()]
        copies.append(pa.table({"id": ids, "image": images, "label": digits["label"]}))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.concat_tables(copies), folder / "pool.parquet")
    return {
        **mnist(data, folder),
        "rules": [
            "random",
            "bald",
            "power_bald",
            "batch_bald",
            {"by": "bald", "most_alike": 0.99},
        ],
        "labelled": str(folder / "pool.parquet"),
        "seeds": 3,
        "rounds": 14,
        "scored": None,
    }


def mnist_thousand(data, folder):
    """Return batches of 1,000 digits per round, out of 10,000 that are scored."""
    settings = mnist(data, folder)
    return {
        **settings,
        "rules": ["random", "bald", "power_bald"],
        "seeds": 3,
        "k": 1000,
        "rounds": 3,
        "scored": 10_000,
        "candidates": 1000,
        "accuracies": [0.97, 0.98, 0.985],
        "training": {**settings["training"], "epochs": 30},
    }


def cifar10(data, folder):
    """Return airplanes, cats and trucks by our small network: 10 per class, then 50 per round."""
    classes = ["airplane", "cat", "truck"]
    train, test = by_name(data / "cifar10-airplane-cat-truck", classes, folder)
    return {
        "classes": classes,
        "labelled": train,
        "rules": ["random", "bald", "power_bald", "batch_bald"],
        "seeds": 5,
        "start": 10,
        "k": 50,
        "rounds": 10,
        "scored": 4000,
        "accuracies": [0.7, 0.75, 0.8],
        "model": {"factory": "small_convnet", "image_size": 32, **COLOUR},
        "training": {
            "evaluation_set": test,
            "epochs": 60,
            "min_steps": 0,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "evaluation_samples": 5,
            "augmentations": {"horizontal_flip": True},
        },
        "scoring": {"samples": 20, "batch_size": 250},
    }


def cifar10_thousand(data, folder):
    """Return batches of 1,000 airplanes, cats and trucks, out of all 15,000."""
    settings = cifar10(data, folder)
    return {
        **settings,
        "rules": ["random", "bald", "power_bald"],
        "seeds": 3,
        "start": 100,
        "k": 1000,
        "rounds": 4,
        "scored": None,
        "candidates": 1000,
        "accuracies": [0.8, 0.85, 0.875, 0.9],
        "training": {**settings["training"], "epochs": 30},
    }


def cifar100(data, folder):
    """Return VGG16 with batch normalisation from scratch and 5,000 labels, which needs a GPU."""
    classes = _all_classes(data / "cifar100")
    train, test = by_name(data / "cifar100", classes, folder)
    return {
        "classes": classes,
        "labelled": train,
        "rules": ["random", "bald", "power_bald"],
        "seeds": 3,
        "start": 50,
        "k": 2500,
        "rounds": 8,
        "candidates": 2500,
        "accuracies": [0.4, 0.5, 0.55],
        "model": {"factory": "networks:vgg16_bn_32", "image_size": 32, **COLOUR},
        "training": {
            "evaluation_set": test,
            "epochs": 100,
            "min_steps": 0,  # the results are older than this setting
            "batch_size": 128,
            "learning_rate": 0.05,
            "optimizer": "sgd",
            "weight_decay": 5e-4,
            "evaluation_samples": 5,
            "augmentations": {"horizontal_flip": True, "crop_padding": 4},
        },
        "scoring": {"samples": 20, "batch_size": 500},
        "gpus": 1,
    }


def cifar100_reduced(data, folder):
    """Return the same for two cores: 10 classes, a quarter of the channels, 100 first labels."""
    settings = cifar100(data, folder)
    classes = settings["classes"][:10]
    train, test = by_name(data / "cifar100", classes, folder)
    return {
        **settings,
        "classes": classes,
        "labelled": train,
        "start": 10,
        "k": 100,
        "rounds": 6,
        "candidates": 500,
        "accuracies": [0.3, 0.35, 0.4],
        "model": {**settings["model"], "arguments": {"width": 0.25}},
        "training": {
            **settings["training"],
            "evaluation_set": test,
            "epochs": 60,
            "batch_size": 32,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
        },
        "scoring": {"samples": 20, "batch_size": 250},
        "gpus": 0,
    }


EXPERIMENTS = {
    function.__name__: function
    for function in (
        mnist,
        mnist_300,
        mnist_thousand,
        repeated_mnist,
        cifar10,
        cifar10_thousand,
        cifar100,
        cifar100_reduced,
    )
}


def _all_classes(folder):
    """Return the names of the classes in the order of their labels."""
    table = pq.read_table(one(folder, "test"), columns=["label", "class_name"])
    name_of = dict(zip(table["label"].to_pylist(), table["class_name"].to_pylist(), strict=True))
    return [name_of[label] for label in sorted(name_of)]


def by_name(source, classes, folder):
    """Write the images of these classes, labelled by name, and return both files."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = [folder / f"{part}.parquet" for part in ("train", "test")]
    for copy in copies:
        table = pq.read_table(one(source, copy.stem), columns=["id", "image", "class_name"])
        table = table.rename_columns(["id", "image", "label"])
        pq.write_table(table.filter(pc.is_in(table["label"], pa.array(classes))), copy)
    return [str(copy) for copy in copies]


def one(folder, name):
    """Return the only file or folder in a folder whose name begins with `name`."""
    (found,) = folder.glob(f"{name}*")
    return str(found.resolve())


def results(curves, accuracies):
    """Return the labels needed and the verdicts, as in the files beside this script."""
    needed = labels_needed(curves, accuracies)
    table = needed.to_pandas().round(3).to_string(index=False)
    return "\n\n".join([table, *(verdict.sentence for verdict in verdicts(curves, needed))])


def main():
    """Run an experiment, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, help="fewer or more; more can be added later")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    settings = EXPERIMENTS[arguments.experiment](arguments.data, folder)
    if arguments.seeds:
        settings["seeds"] = arguments.seeds
    config = ExperimentConfig.from_dict({"folder": str(folder), **settings})
    logging.basicConfig(level=logging.WARNING)

    def watch(row):
        print(
            f"{row['rule']:12} seed {row['seed']}  {row['labels']:4} labels  "
            f"{row['accuracy']:.4f}  {row['fit_seconds']:.1f} s  {row['score_seconds']:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    print(results(run_experiment(config, watch=watch), config.accuracies))


if __name__ == "__main__":
    main()
