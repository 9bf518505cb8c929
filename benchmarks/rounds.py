"""Small real rounds in processes of their own, for benchmarks that kill them."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import yaml

from baal_ray.labelled_import import import_labelled_set
from baal_ray.manifest import Manifest
from baal_ray.workspace import manifest_uri

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
from pools import label_of, round_config, write_labelled, write_pool  # noqa: E402


def start_ray():
    """Start a local Ray; give the environment of drivers that join it."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING", log_to_driver=False)
    return os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


def prepare(folder, images, k):
    """Make a pool, and a workspace with 30 labels; give the round's configuration."""
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
    """Write a configuration beside its workspace; give the path."""
    path = Path(config.workspace).parent / "round.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def manifest_of(config):
    """Open a workspace's manifest."""
    return Manifest(manifest_uri(config.workspace))


def begin(config, round_id, environment, *fault):
    """Start a round's driver, which meets with a fault if one is given (tests/faults.py)."""
    path = str(Path(config.workspace).parent / "round.yaml")
    command = [sys.executable, str(TESTS / "faults.py"), path, round_id, *map(str, fault)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Wait for a driver; give its exit code and the last line it printed."""
    told, errors = process.communicate()
    if process.returncode not in (0, -9) and "out of reach, for once" not in errors:
        sys.exit(f"a driver ended with {process.returncode}:\n{errors}")
    return process.returncode, (told.splitlines() or [""])[-1]


def answer(config, round_id):
    """Label what a round acquired, as an oracle would."""
    ids = manifest_of(config).rows(round_id=round_id)["id"].to_pylist()
    manifest_of(config).label(pa.table({"id": ids, "label": list(map(label_of, ids))}))


def outcome(config, round_id):
    """Give what a round leaves: its rows in the manifest, its batch, and all scores."""
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
    """Whether two rounds left the same, bit for bit."""
    return all(pd.DataFrame.equals(one[name], other[name]) for name in one)


def scored_rows(config):
    """Count the rows in score files, doubled ones too."""
    files = Path(config.workspace, "scores").rglob("*.parquet")
    return sum(pq.read_metadata(file).num_rows for file in files)
