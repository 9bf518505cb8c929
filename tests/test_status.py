import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.labels import export_labels
from baal_ray.manifest import Manifest
from baal_ray.status import round_rows
from baal_ray.workspace import manifest_uri, rounds_uri

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


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
        ("seeds", "labelled set", "1", "1", "0", ""),
        ("night-10", "random", "2", "1", "1", ""),
        ("night-9", "bald", "1", "0", "1", "0.988"),
    ]


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(0)], ids=["a day back", "stopped"])
def test_clocks_do_not_order_rounds(tmp_path, monkeypatch, step):
    """Each round runs on a machine whose clock is a day behind, or at the very same moment."""
    workspace = str(tmp_path)
    manifest = Manifest(manifest_uri(workspace))
    names = ["m", "z", "a", "night-10", "night-9"]
    for number, name in enumerate(names):
        clock = type("Clock", (), {"now": lambda zone, n=number: NOON.astimezone(zone) + n * step})
        monkeypatch.setattr("baal_ray.manifest.datetime", clock)
        manifest.acquire(pa.table({"id": [name, f"{name} too"]}), name)
    monkeypatch.undo()
    rewind_log(tmp_path / "manifest" / "_delta_log", step)
    assert [row[0] for row in round_rows(workspace)] == names
    path = str(tmp_path / "todo.jsonl")
    export_labels(manifest, path)
    lines = storage.read(path).decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [
        id for name in names for id in (name, f"{name} too")
    ]


def rewind_log(folder, step):
    """Have Delta Lake's own times say the same as ours, as that machine's commits would."""
    for number, entry in enumerate(sorted(folder.glob("*.json"))):
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                at = NOON + number * step
                action["commitInfo"]["timestamp"] = int(at.timestamp() * 1000)
        entry.write_text("\n".join(map(json.dumps, actions)))


def test_status_starts_at_once():
    code = "import baal_ray.status, sys; print({'torch', 'ray'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
