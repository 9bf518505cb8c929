"""Test of a round that loses a machine in the middle of the fit, and another while scoring."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri, scores_uri
from pools import round_config, table, write_labelled, write_pool

SCRIPT = Path(__file__).parents[1] / "support" / "lost_node.py"
POOL = 300


def test_a_round_outlives_the_nodes_at_work(tmp_path: Path) -> None:
    write_pool(tmp_path, images=POOL)
    config = round_config(
        tmp_path,
        training={"epochs": 60, "evaluation_set": write_labelled(tmp_path, start=7000)},
        # It runs whole for each sample, so that scoring takes its time.
        model={"factory": "pools:Fragile", "arguments": {"folder": str(tmp_path), "deaths": 0}},
        scoring={"samples": 100},
        resources={"training_workers": 1, "training_cpus": 1.5, "scoring_cpus": 1.25},
    )
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        write_labelled(tmp_path),
        workspace=config.workspace,
        classes=config.classes,
    )
    path = tmp_path / "round.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with tempfile.TemporaryDirectory(prefix="baal-", dir="/tmp") as home:
        done = subprocess.run(
            [sys.executable, SCRIPT, path, "night"],
            env=os.environ | {"HOME": home},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    assert "lost a node at work, in fit" in done.stdout
    assert "lost a node at work, in scores" in done.stdout
    assert "10 acquired by bald" in done.stdout
    scores = pq.read_table(scores_uri(config.workspace))
    assert sorted(scores["id"].to_pylist()) == table(0, POOL)["id"].to_pylist()
    assert scores["error"].null_count == POOL
    rows = Manifest(manifest_uri(config.workspace)).rows(round_id="night")
    assert sorted(rows["rank"].to_pylist()) == list(range(1, 11))
