import json
import subprocess
import sys

import pyarrow as pa

from baal_ray import storage
from baal_ray.manifest import Manifest
from baal_ray.status import round_rows
from baal_ray.workspace import manifest_uri, rounds_uri


def finished(workspace, round_id, metrics):
    result = {"result": {"round_id": round_id, "metrics": metrics}}
    storage.publish(f"{rounds_uri(workspace)}/{round_id}/round.json", json.dumps(result).encode())


def test_a_new_workspace_has_no_rounds(tmp_path):
    assert round_rows(str(tmp_path)) == []


def test_rounds_come_in_the_order_they_were_committed_in(tmp_path):
    workspace = str(tmp_path)
    manifest = Manifest(manifest_uri(workspace))
    manifest.add_labelled(pa.table({"id": ["s"], "label": ["cat"]}), "seeds", labelled_by="ann")
    manifest.acquire(pa.table({"id": ["b", "a"], "rule": ["random"] * 2}), "night-10")
    manifest.acquire(pa.table({"id": ["c"], "rule": ["bald"]}), "night-9")
    manifest.label(pa.table({"id": ["a"], "label": ["dog"]}))
    finished(workspace, "night-10", {})
    finished(workspace, "night-9", {"accuracy": 0.98765})
    storage.publish(f"{rounds_uri(workspace)}/night-11/plan.json", b"{}")
    assert round_rows(workspace) == [
        ("seeds", "labelled set", "1", "1", ""),
        ("night-10", "random", "2", "1", ""),
        ("night-9", "bald", "1", "0", "0.988"),
    ]


def test_status_starts_at_once():
    code = "import baal_ray.status, sys; print({'torch', 'ray'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
