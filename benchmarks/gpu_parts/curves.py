"""Learning curves on the GPU, in pieces that go on from one another.

    python benchmarks/gpu.py --only curves --seconds 480 --out FOLDER \
        --data DATA --experiments mnist cifar100 --resume EARLIER/curves

DATA is as for benchmarks/experiments/experiments.py. A piece computes points until its time is
over. Its folder `FOLDER/curves` is what the next piece takes as `--resume`.
"""

import shutil

import experiments
import feeding
import ray
from part import Part

from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.run import run_experiment

# Curves computed at a time. They share the GPU.
TOGETHER = 4


def run(part: Part) -> None:
    """Compute points of one experiment after another."""
    options = part.options
    if options.data is None or not options.experiments:
        part.report("nothing to do", None, note="give --data and --experiments")
        return
    if options.resume is not None:
        shutil.copytree(options.resume, options.out / "curves", dirs_exist_ok=True)
    feeding.start_ray()
    for name in options.experiments:
        part.attempt(name, curves, name)


def curves(part: Part, name: str) -> None:
    """Compute the points of an experiment that are missing."""
    folder = part.options.out / "curves" / name
    settings = experiments.EXPERIMENTS[name](part.options.data.resolve(), folder)
    gpus = 1 / TOGETHER if part.device == "cuda" else 0
    cpus = max(1, int(ray.cluster_resources()["CPU"]) // TOGETHER)
    config = ExperimentConfig.from_dict(
        {**settings, "folder": str(folder), "gpus": gpus, "cpus": cpus}
    )

    def watch(row: dict) -> None:
        label = f"{name}: {row['rule']}, seed {row['seed']}, {row['labels']} labels"
        note = f"fit {row['fit_seconds']:.1f} s, scores {row['score_seconds']:.1f} s"
        part.report(label, row["accuracy"], "accuracy", note=note)

    run_experiment(config, watch=watch)
