"""Small pools of real PNGs that a model can learn: three classes, bright in another third."""

import os
import time
from itertools import count
from pathlib import Path
from signal import SIGKILL
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from baal_ray.checkpoint import read_architecture
from baal_ray.config import RoundConfig
from baal_ray.experiment.config import ExperimentConfig
from baal_ray.images import encode_png
from baal_ray.model import small_convnet
from baal_ray.pool.decoding_task import decode
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer

CLASSES = ["left", "middle", "right"]


def picture(label: int, seed: int, size: int = 12) -> bytes:
    """Return an image of noise, brighter in one third of its columns."""
    pixels = np.random.default_rng(seed).integers(0, 120, (3, size, size))
    third = size // 3
    pixels[:, :, label * third : (label + 1) * third] += 60
    return encode_png(pixels.astype(np.uint8))


def table(start: int, stop: int) -> pa.Table:
    """Return the images from `start` to `stop` as `id`, `image` and `label`."""
    numbers = range(start, stop)
    return pa.table(
        {
            "id": [f"image-{i:04}" for i in numbers],
            "image": pa.array([picture(i % 3, i) for i in numbers], pa.binary()),
            "label": [CLASSES[i % 3] for i in numbers],
        }
    )


def hugging_face_images(images: list[bytes | None]) -> pa.Array:
    """Return images as Hugging Face's datasets write them, with the paths that they had."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    return pa.array(rows, kind)


def label_of(image_id: str) -> str:
    """Return the true class, as an oracle knows it."""
    return CLASSES[int(image_id.rsplit("-", 1)[1]) % 3]


def write_pool(folder: Path, images: int = 300, per_file: int = 100) -> str:
    """Write a pool of Parquet files, with 50 rows per row group, and return its folder."""
    pool = folder / "pool"
    os.makedirs(pool, exist_ok=True)
    for start in range(0, images, per_file):
        rows = table(start, min(start + per_file, images)).select(["id", "image"])
        pq.write_table(rows, pool / f"{start:05}.parquet", row_group_size=50)
    return str(pool)


def write_labelled(folder: Path, start: int = 9000, images: int = 30) -> str:
    """Write a labelled set with its own images, which are not in the pool, and return its path."""
    path = folder / f"labelled-{start}.parquet"
    pq.write_table(table(start, start + images), path)
    return str(path)


def round_config(folder: Path, **sections: Any) -> RoundConfig:
    """Return a round that takes seconds: a fit in this process, two CPUs in all."""
    settings: dict[str, Any] = {
        "workspace": str(folder / "workspace"),
        "classes": CLASSES,
        "pool": {"uri": str(folder / "pool")},
        "selection": {"k": 10, "by": "bald"},
        "model": {"image_size": 12},
        "training": {"epochs": 3, "min_steps": 0, "batch_size": 8, "evaluation_samples": 2},
        "scoring": {"samples": 4},
        "resources": {"training_workers": 0},
    }
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section if isinstance(section, dict) else section
    return RoundConfig.from_dict(settings)


def score_without_ray(rows: pa.Table, job: ScoringJob) -> pd.DataFrame:
    """Return the scores of images by a job in this process, by id."""
    height, width = read_architecture(job.checkpoint).model.image_size
    scorer, size = PoolScorer(job), job.config.mini_batch
    parts = [
        scorer(decode(rows[start : start + size], height, width, job.config.max_pixels))
        for start in range(0, len(rows), size)
    ]
    scores: pd.DataFrame = pa.concat_tables(parts).to_pandas().set_index("id")
    return scores


def experiment_config(where: Path, **settings: Any) -> ExperimentConfig:
    """Return an experiment of a second per point: 120 labelled images, and 60 to measure on."""
    return ExperimentConfig.from_dict(
        {
            "folder": str(where / "experiment"),
            "classes": CLASSES,
            "labelled": write_labelled(where, 0, 120),
            "rules": ["random", "bald"],
            "seeds": 2,
            "start": 1,
            "k": 5,
            "rounds": 2,
            "candidates": 20,
            "target_images": 10,
            "model": {"image_size": 12},
            "training": {
                "evaluation_set": write_labelled(where, 9000, 60),
                "epochs": 3,
                "min_steps": 0,
                "batch_size": 8,
                "evaluation_samples": 4,
            },
            "scoring": {"samples": 4},
            **settings,
        }
    )


class Mortal(torch.nn.Module):
    """A model whose process is killed in its tenth training step, once, as a marker remembers."""

    def __init__(self, num_classes: int, marker: str) -> None:
        super().__init__()
        self.network = small_convnet(num_classes)
        self.marker = Path(marker)
        self.steps = 0

    def forward(self, images_N: torch.Tensor) -> torch.Tensor:
        # Checks of the posterior run in training mode too, but without gradients.
        step = self.training and torch.is_grad_enabled()
        self.steps += step
        if step:
            with self.marker.with_suffix(".steps").open("a") as steps:
                steps.write("step\n")
        if self.steps == 10 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), SIGKILL)
        predictions: torch.Tensor = self.network(images_N)
        return predictions


class Deadly(torch.nn.Module):
    """A model whose process is killed by a white image, or by whatever it is given."""

    def __init__(self, num_classes: int, always: bool = False) -> None:
        super().__init__()
        self.always = always
        self.network = small_convnet(num_classes)

    def forward(self, images_N: torch.Tensor) -> torch.Tensor:
        white = (images_N.flatten(1).amin(dim=1) > 2).any()  # once standardised
        if white or self.always:
            os.kill(os.getpid(), SIGKILL)
        predictions: torch.Tensor = self.network(images_N)
        return predictions


class Hungry(torch.nn.Module):
    """A model that needs 7 MB per image of 12 by 12 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout = torch.nn.Dropout(0.5)
        self.linear = torch.nn.Linear(432, num_classes)

    def forward(self, images_N: torch.Tensor) -> torch.Tensor:
        copies = images_N.flatten(1).unsqueeze(2).repeat(1, 1, 4096)
        predictions: torch.Tensor = self.linear(self.dropout(copies.mean(dim=2)))
        return predictions


# Of this process; a model's own attributes are put back after each mini-batch.
_passes = count(1)


class Fragile(torch.nn.Module):
    """A model whose process is killed while it predicts, `deaths` times in all.

    It looks at values, so it cannot be traced and runs whole for each posterior sample.
    """

    def __init__(self, num_classes: int, folder: str, deaths: int) -> None:
        super().__init__()
        self.network = small_convnet(num_classes)
        self.folder = Path(folder)
        self.deaths = deaths

    def forward(self, images_N: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.network(images_N)
        scores = len(images_N) > 16 and bool(predictions.isfinite().any())  # no check at load
        died = len(list(self.folder.glob("death-*")))
        if scores and next(_passes) == 7 and died < self.deaths:
            (self.folder / f"death-{died}").touch()
            os.kill(os.getpid(), SIGKILL)
        return predictions


class Slow(torch.nn.Module):
    """A model that sleeps in each pass, and counts the passes of each process."""

    def __init__(self, num_classes: int, folder: str, seconds: float) -> None:
        super().__init__()
        self.network = small_convnet(num_classes)
        self.folder = Path(folder)
        self.seconds = seconds

    def forward(self, images_N: torch.Tensor) -> torch.Tensor:
        predictions: torch.Tensor = self.network(images_N)
        if len(images_N) > 16 and bool(predictions.isfinite().any()):  # no check at load
            with (self.folder / f"passes-of-{os.getpid()}").open("a") as passes:
                passes.write("pass\n")
            time.sleep(self.seconds)
        return predictions
