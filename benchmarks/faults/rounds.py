"""Small real rounds in processes of their own, for benchmarks that kill them."""

import multiprocessing
import os
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml

from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri

SUPPORT = Path(__file__).parents[2] / "tests" / "support"
sys.path.insert(0, str(SUPPORT))
from faults import drive  # noqa: E402
from pools import label_of, round_config, write_labelled, write_pool  # noqa: E402


def start_ray():
    """Start a local Ray, which drivers join."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING", log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def prepare(folder, images, k):
    """Write a pool and a workspace with 30 labels, and return the round's configuration."""
    write_pool(folder, images)
    config = round_config(folder, selection={"k": k})
    import_labelled_set(
        manifest_of(config),
        write_labelled(folder),
        workspace=config.workspace,
        classes=config.classes,
    )
    write_config(config)
    return config


def write_config(config):
    """Write a configuration beside its workspace, and return its path."""
    path = Path(config.workspace).parent / "round.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def manifest_of(config):
    """Open a workspace's manifest."""
    return Manifest(manifest_uri(config.workspace))


# A server that has already imported torch and Ray, so that it forks a driver at once.
_drivers = multiprocessing.get_context("forkserver")
_drivers.set_forkserver_preload(["faults", "baal_ray.driver"])


def begin(config, round_id, *fault):
    """Start the driver of a round, with a fault if one is given (tests/support/faults.py)."""
    folder = Path(config.workspace).parent
    arguments = [folder, round_id, *map(str, fault)]
    process = _drivers.Process(target=_drive, args=arguments)
    process.start()
    return process


def _drive(folder, round_id, *fault):
    """Run the round in the driver's process, with its output in a file."""
    log = os.open(folder / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    counts = drive(str(folder / "round.yaml"), round_id, *fault)
    (folder / "counts").write_text(counts)


def finish(config, process):
    """Wait for a driver, and return its exit code, which is 1 if the store was out of reach."""
    process.join()
    folder = Path(config.workspace).parent
    if process.exitcode not in (0, -9):
        said = (folder / "driver.log").read_text()
        if "out of reach, for once" not in said:
            sys.exit(f"a driver ended with {process.exitcode}:\n{said}")
    return process.exitcode


def counts(config):
    """Return the numbers of writes and of calls that the last driver made."""
    return map(int, (Path(config.workspace).parent / "counts").read_text().split())


def answer(config, round_id):
    """Label the picks of a round, as an oracle would."""
    ids = manifest_of(config).rows(round_id=round_id)["id"].to_pylist()
    manifest_of(config).label(pa.table({"id": ids, "label": list(map(label_of, ids))}))


def outcome(config, round_id):
    """Return the traces of a round: its rows in the manifest, its batch, and all scores."""
    rows = manifest_of(config).rows(round_id=round_id).to_pandas()
    rows = rows.drop(columns=["acquired_at", "labelled_at"])
    folders = {"batch": f"rounds/{round_id}/batch", "scores": "scores"}
    tables = {
        name: pq.read_table(Path(config.workspace, folder)).to_pandas()
        for name, folder in folders.items()
    }
    tables["manifest"] = rows
    return {name: table.sort_values("id").reset_index(drop=True) for name, table in tables.items()}


def same(one, other):
    """Return whether two rounds left the same, bit for bit."""
    return all(pd.DataFrame.equals(one[name], other[name]) for name in one)


def scored_rows(config):
    """Count the rows in score files, including doubled ones."""
    files = Path(config.workspace, "scores").rglob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)
