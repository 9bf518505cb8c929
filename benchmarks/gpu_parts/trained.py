"""A fit by Ray Train on a GPU, whose worker is killed, and which goes on from its last epoch."""

import time
from pathlib import Path

import feeding
import ray
import torch
from part import Part

import pools
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.training.fit import fit_model
from baal_ray.workspace import manifest_uri


def run(part: Part) -> None:
    """Run the fit."""
    feeding.start_ray()
    part.attempt("fit", fit)
    ray.shutdown()


def fit(part: Part) -> None:
    """Fit for four epochs of four steps, and kill the worker in the tenth step."""
    marker = part.folder / "killed"
    gpus = 1 if part.device == "cuda" else 0
    config = pools.round_config(
        part.folder,
        model={"factory": "pools:Mortal", "arguments": {"marker": str(marker)}},
        training={"epochs": 4, "evaluation_set": pools.write_labelled(part.folder, start=7000)},
        resources={"training_workers": 1, "training_gpus": gpus, "training_cpus": 0.5},
    )
    manifest = Manifest(manifest_uri(config.workspace))
    labelled = pools.write_labelled(part.folder)
    import_labelled_set(manifest, labelled, workspace=config.workspace, classes=config.classes)
    begun = time.perf_counter()
    done = fit_model(config, manifest.labelled())
    seconds = time.perf_counter() - begun
    steps = len(Path(marker).with_suffix(".steps").read_text().splitlines())
    backend = "NCCL" if gpus and torch.distributed.is_nccl_available() else "gloo"
    note = f"16 without the kill; from the start it would be 26; one worker, {backend}"
    part.report("steps of a fit whose worker is killed in step 10", steps, "steps", "<= 22", note)
    part.report("epochs of that fit", len(done.history), "epochs", "== 4")
    part.report("seconds of that fit", seconds, "s", note="both starts of Ray Train included")
