"""A demo of active learning: three rounds on handwritten digits, compared with random picks."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from rich.console import Console

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.connection import connect
from baal_ray.errors import BaalRayError
from baal_ray.images import encode_png
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri
from baal_ray.workspace.table_schemas import ACQUIRED

CLASSES = [str(digit) for digit in range(10)]
ROUNDS, K, START, EVALUATION = 3, 20, 20, 500

CONFIG = """\
# Written by `baal-ray demo`. Every other setting has its default value.
workspace: {workspace}
classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
pool:
  uri: {folder}/pool.parquet
model:
  arguments: {{dropout: 0.3}}
  image_size: 16
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
training:
  evaluation_set: {folder}/evaluation.parquet
selection:
  k: {k}
  by: {by}
"""


def run_demo(folder: str, console: Console) -> None:
    """Run the demo and print its progress.

    Args:
        folder: Folder to write everything to. It must not exist yet.
        console: Console to print to.

    Raises:
        BaalRayError: If the folder exists, or scikit-learn is not installed.
    """
    if os.path.exists(folder):
        raise BaalRayError(
            f"{folder} already exists; delete it, or name another one with --folder"
        )
    truth = _write_digits(folder)
    start = _first_labels(truth)
    with _ticking(console, "starting Ray on this machine"):
        _start_ray()
    console.print(
        f"A pool of {len(truth)} handwritten digits, {START} of them labelled, and {EVALUATION} "
        f"more for evaluation.\nEach round acquires {K} images, by BALD or at random.\n",
        soft_wrap=True,
    )
    console.print("labels   accuracy by BALD   at random")
    fitter = ray.remote(num_cpus=0)(_Fitter).remote()
    active = _Arm(folder, "bald", truth, start, fitter)
    random = _Arm(folder, "random", truth, start, fitter)
    # Random picks need no model, so their fits can run alongside the rounds.
    at_random = []
    for number in range(1, ROUNDS + 1):
        random.acquire_at_random(number)
        at_random.append(random.fit())
    for number in range(1, ROUNDS + 1):
        with _ticking(console, f"round {number}: fit, score the pool, acquire"):
            by_bald = active.run_round(f"round-{number}")
            other = by_bald if number == 1 else ray.get(at_random[number - 2])
        console.print(f"{active.labels:6}   {by_bald:16.3f}   {other:9.3f}")
        active.answer(f"round-{number}")
    with _ticking(console, "final fit on all labels"):
        by_bald, other = ray.get([active.fit(), at_random[-1]])
    console.print(f"{active.labels:6}   {by_bald:16.3f}   {other:9.3f}")
    console.print(_epilogue(folder), highlight=False, soft_wrap=True)


class _Fitter:
    """An actor that runs one fit after another."""

    def accuracy(self, config: RoundConfig, labelled: pa.Table) -> float:
        """Fit in this process, without workers, and return the accuracy."""
        from baal_ray.training.fit import fit_model

        resources = config.resources.model_copy(update={"training_workers": 0})
        config = config.model_copy(update={"resources": resources})
        return fit_model(config, labelled).history[-1]["accuracy"]


class _Arm:
    """One side of the comparison: a workspace whose images are chosen by one rule."""

    def __init__(
        self, folder: str, by: str, truth: Mapping[str, str], start: list[str], fitter: Any
    ) -> None:
        self._folder, self._by, self._truth = folder, by, truth
        self._workspace = os.path.join(folder, by)
        self._manifest = Manifest(manifest_uri(self._workspace))
        path = os.path.join(folder, f"{by}.yaml")
        settings = CONFIG.format(workspace=self._workspace, folder=folder, k=K, by=by)
        storage.publish(path, settings.encode())
        self._config = RoundConfig.from_yaml(path)
        self._fitter = fitter
        self._bring_in(start)

    @property
    def labels(self) -> int:
        return len(self._manifest.labelled())

    def run_round(self, round_id: str) -> float:
        """Run a round and return the accuracy of the model that it fitted."""
        from baal_ray.driver import run_round

        return run_round(self._config, round_id).metrics["accuracy"]

    def fit(self) -> "ray.ObjectRef[float]":
        """Start a fit on the current labels alongside the rounds; return its future accuracy."""
        reference: ray.ObjectRef[float] = self._fitter.accuracy.remote(
            self._config, self._manifest.labelled()
        )
        return reference

    def answer(self, round_id: str) -> None:
        """Act as the oracle: label the images that the round acquired."""
        ids = self._manifest.rows(round_id=round_id, status=ACQUIRED)["id"].to_pylist()
        labels = [self._truth[image_id] for image_id in ids]
        self._manifest.label(pa.table({"id": ids, "label": labels}))

    def acquire_at_random(self, seed: int) -> None:
        """Import labelled images of the pool that are picked at random."""
        left = sorted(self._truth.keys() - set(self._manifest.ids().to_pylist()))
        self._bring_in(np.random.default_rng(seed).permutation(left)[:K].tolist())

    def _bring_in(self, ids: list[str]) -> None:
        pool = pq.read_table(os.path.join(self._folder, "pool.parquet"))
        rows = pool.filter(pc.is_in(pool["id"], pa.array(ids)))
        labels = [self._truth[image_id] for image_id in rows["id"].to_pylist()]
        file = os.path.join(self._folder, "labelled.parquet")
        pq.write_table(rows.append_column("label", pa.array(labels)), file)
        import_labelled_set(
            self._manifest, file, workspace=self._workspace, classes=self._config.classes
        )
        os.remove(file)


def _write_digits(folder: str) -> dict[str, str]:
    """Write pool.parquet and evaluation.parquet, and return the pool's true labels by id."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BaalRayError(
            "the demo's digits come with scikit-learn, which is not installed; install "
            "baal-ray[report]"
        ) from error
    digits = load_digits()
    images = [encode_png((image * 255 / 16).astype(np.uint8)) for image in digits.images]
    labels = [str(label) for label in digits.target]
    table = pa.table({"id": [f"digit-{i:04}" for i in range(len(labels))], "image": images})
    order = np.random.default_rng(0).permutation(len(labels))
    held_back, pool = order[:EVALUATION], order[EVALUATION:]
    os.makedirs(folder)
    everything = table.append_column("label", pa.array(labels))
    pq.write_table(everything.take(held_back), os.path.join(folder, "evaluation.parquet"))
    pq.write_table(table.take(pool), os.path.join(folder, "pool.parquet"), row_group_size=256)
    return {f"digit-{i:04}": labels[i] for i in pool}


def _first_labels(truth: Mapping[str, str]) -> list[str]:
    """Return the ids of the pool's first images of each class, the same number per class."""
    of_class = {name: [i for i, label in truth.items() if label == name] for name in CLASSES}
    return [image_id for ids in of_class.values() for image_id in ids[: START // len(CLASSES)]]


def _start_ray() -> None:
    """Start a quiet local cluster, with one CPU to read the pool and one to score it."""
    # Otherwise Ray's core mixes messages for Ray's own developers with ours.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Otherwise each fit starts a process that watches for nodes about to be preempted. The only
    # node here stays.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    connect(
        address="local",
        num_cpus=max(2, os.cpu_count() or 2),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.disable(logging.WARNING)


@contextmanager
def _ticking(console: Console, what: str) -> Iterator[None]:
    """Show the running step and its duration in a terminal, in a line that vanishes at the end."""
    with console.status("") as status:
        begun, done = time.monotonic(), threading.Event()

        def tick() -> None:
            while not done.wait(0.5):
                status.update(f"{what} ({time.monotonic() - begun:.0f} s)")

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def _epilogue(folder: str) -> str:
    here = os.path.relpath(folder)
    return f"""
Everything is in {here}/:
  pool.parquet, evaluation.parquet   the images, as PNG
  bald.yaml                          the configuration of the rounds
  bald/manifest                      which images were acquired and labelled when, a Delta table
  bald/scores                        BALD and related scores of the whole pool, Parquet
  bald/rounds/round-1 ...            plan, metrics and acquisition batch of each round
  bald/checkpoints                   the models

Try next:
  baal-ray status {here}/bald.yaml
  baal-ray run {here}/bald.yaml --round round-4
  baal-ray labels export {here}/bald.yaml to_label.csv"""
