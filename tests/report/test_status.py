import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labels import export_labels
from baal_ray.operations.forgetting import forget_images
from baal_ray.report import comparison
from baal_ray.report.status import workspace_status
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import batch_uri, manifest_uri
from baal_ray.workspace.records import ClassCounts
from baal_ray.workspace.table_schemas import BATCH
from pools import round_config
from rounds_on_disk import label, write_round
from stage_files import plan, put, round_record

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def finished(config, round_id, metrics, labels=0, version=0):
    record = round_record(round_id, metrics=metrics, labels=labels)
    put(config.workspace, round_id, plan(version, config), record)


def test_a_new_workspace_has_no_rounds(tmp_path):
    status = workspace_status(round_config(tmp_path))
    assert (status.rows, status.summary) == ([], [])


def test_rounds_come_in_the_order_they_were_committed_in(tmp_path):
    config = round_config(tmp_path)
    workspace = config.workspace
    manifest = Manifest(manifest_uri(workspace))
    manifest.add_labelled(pa.table({"id": ["s"], "label": ["cat"]}), "seeds", labelled_by="ann")
    manifest.acquire(pa.table({"id": ["b", "a"], "rule": ["random"] * 2}), "night-10")
    manifest.acquire(pa.table({"id": ["c"], "rule": ["bald"]}), "night-9")
    manifest.label(pa.table({"id": ["a"], "label": ["dog"]}))
    finished(config, "night-10", {})
    finished(config, "night-9", {"accuracy": 0.98765})
    put(workspace, "night-11", plan())
    status = workspace_status(config)
    assert status.rows == [
        ("seeds", "labelled set", "1", "1", "0", "", "", ""),
        ("night-10", "random", "2", "1", "1", "", "", ""),
        ("night-9", "bald", "1", "0", "1", "0.988", "", ""),
    ]
    (told,) = status.summary
    assert told.startswith(
        "training.evaluation_set is not set: each round is measured on different"
    )


def test_the_worst_class_of_the_latest_model_is_one_line(tmp_path):
    config = round_config(tmp_path)
    manifest = Manifest(manifest_uri(config.workspace))
    for round_id, found in (("night-1", 20), ("night-2", 1)):
        manifest.acquire(pa.table({"id": [round_id], "rule": ["bald"]}), round_id)
        counts = ClassCounts(images=[70, 24, 6], predicted=[73, 26, 1], correct=[70, found, 0])
        record = round_record(round_id, by_class=counts)
        put(config.workspace, round_id, plan(0, config), record)
    (line,) = [text for text in workspace_status(config).summary if "Worst class" in text]
    assert line == (
        "Worst class of round night-2: 'right': 0 of 6 evaluation images are found, recall 0% (0% "
        "to 39%), precision 0% (0% to 79%)."
    )


def acquired(config, round_id, *, active, control):
    """Commit picks, given as (label, prediction). Those without a label still wait for one."""
    picks = [*((*pick, "bald") for pick in active), *((*pick, "random") for pick in control)]
    labels, predicted, rules = zip(*picks, strict=True)
    ids = [f"{round_id}-{n}" for n in range(len(picks))]
    columns = {"id": ids, "rule": rules, "predicted": predicted, "rank": range(len(ids))}
    columns |= {"model": ["sha256"] * len(ids), "image": [b"x"] * len(ids)}
    nulls = [None] * len(ids)
    batch = pa.table(
        [pa.array(columns.get(field.name, nulls), field.type) for field in BATCH], schema=BATCH
    )
    half = len(ids) // 2
    for part in (batch[:half], batch[half:]):
        folder = batch_uri(config.workspace, round_id)
        publish_table(folder, part)
    manifest = Manifest(manifest_uri(config.workspace))
    manifest.acquire(batch, round_id)
    answers = pa.table({"id": ids, "label": pa.array(labels, pa.string())})
    manifest.label(answers.filter(answers["label"].is_valid()))


def test_labels_are_held_against_what_was_predicted(tmp_path):
    config = round_config(tmp_path)
    right, wrong, waiting = ("left", "left"), ("left", "right"), (None, "left")
    acquired(config, "a", active=[right, wrong, wrong, waiting], control=[right, wrong])
    acquired(config, "b", active=[wrong, right], control=[waiting])
    by_round = {row[0]: row[1:3] + row[-2:] for row in workspace_status(config).rows}
    assert by_round == {
        "a": ("bald + 2 random", "6", "67% of 3", "50% of 2"),
        "b": ("bald + 1 random", "3", "50% of 2", ""),
    }


def test_a_corrected_label_counts_and_a_forgotten_or_released_image_does_not(tmp_path):
    config = round_config(tmp_path)
    wrong, waiting = ("left", "right"), (None, "left")
    acquired(config, "a", active=[wrong, wrong, waiting, wrong], control=[wrong])
    manifest = Manifest(manifest_uri(config.workspace))
    manifest.label(pa.table({"id": ["a-0"], "label": ["right"]}), overwrite=True)
    forget_images(config.workspace, ["a-1"])
    manifest.release(pa.table({"id": ["a-2"]}))
    other = {"id": ["a-2"], "rule": ["bald"], "model": ["sha256"]}
    manifest.acquire(pa.table(other), "b")  # by a program that wrote no batch
    manifest.label(pa.table({"id": ["a-2"], "label": ["right"]}))
    assert [row[-2:] for row in workspace_status(config).rows] == [
        ("50% of 2", "100% of 1"),
        ("", ""),
    ]


def test_the_summary_has_both_a_comparison_and_a_gain(tmp_path):
    config = round_config(tmp_path, training={"evaluation_set": str(tmp_path / "evaluation")})
    right, wrong = ("left", "left"), ("left", "right")
    for number in (1, 2, 3):
        active = [wrong] * 12 + [right] * 8
        acquired(config, f"night-{number}", active=active, control=[wrong] + [right] * 9)
        accuracy = {"accuracy": 0.5 + 0.1 * number, "images": 1000}
        finished(config, f"night-{number}", accuracy, 100 * number, number)
    compared, gained = workspace_status(config).summary
    assert compared.splitlines() == [
        "Picks that the model was wrong about (rounds: 3; 95% intervals):",
        "  active      60.0% of 60 (47.4% to 71.4%)",
        "  random      10.0% of 30 (3.5% to 25.6%)",
        "  difference  +50.0 points (+29.9 to +63.2)",
        "The model was wrong about more of the active picks. They are harder for it, whether "
        "because it can learn from them or because they are blurred or mislabelled.",
    ]
    assert gained.splitlines() == [
        "Points of accuracy per 100 labels (95% intervals):",
        "  night-1 to night-2: +10.00 (+5.82 to +14.13)",
        "  night-2 to night-3: +10.00 (+6.21 to +13.75)",
        "  night-1 to night-3: +10.00 (+8.02 to +11.94): labels still make the model better.",
    ]


@pytest.mark.parametrize("step", [timedelta(days=-1), timedelta(0)], ids=["a day back", "stopped"])
def test_clocks_do_not_order_rounds(tmp_path, monkeypatch, step):
    # Each round runs on a machine whose clock is a day behind, or at exactly the same moment.
    config = round_config(tmp_path)
    manifest = Manifest(manifest_uri(config.workspace))
    names = ["m", "z", "a", "night-10", "night-9"]
    for number, name in enumerate(names):
        clock = type("Clock", (), {"now": lambda zone, n=number: NOON.astimezone(zone) + n * step})
        monkeypatch.setattr("baal_ray.manifest.table.datetime", clock)
        manifest.acquire(pa.table({"id": [name, f"{name} too"]}), name)
    monkeypatch.undo()
    rewind_log(tmp_path / "workspace" / "manifest" / "_delta_log", step)
    assert [row[0] for row in workspace_status(config).rows] == names
    path = str(tmp_path / "todo.jsonl")
    export_labels(manifest, path)
    lines = storage.read(path).decode().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [
        id for name in names for id in (name, f"{name} too")
    ]


def rewind_log(folder, step):
    """Set Delta Lake's own times to ours, as the commits of such a machine would."""
    for number, entry in enumerate(sorted(folder.glob("*.json"))):
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                at = NOON + number * step
                action["commitInfo"]["timestamp"] = int(at.timestamp() * 1000)
        entry.write_text("\n".join(map(json.dumps, actions)))


def test_status_starts_at_once():
    code = "import baal_ray.report.status, sys; print({'torch', 'ray'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_batch_that_forget_replaces_under_the_reader_is_read_again(tmp_path, monkeypatch):
    config = write_round(tmp_path)
    label(config, {"image-0000": config.classes[0]})
    before, opened = workspace_status(config).rows, comparison.open_parquet

    def forget_first(uri):
        monkeypatch.setattr(comparison, "open_parquet", opened)
        forget_images(config.workspace, ["image-0001"])
        return opened(uri)

    monkeypatch.setattr(comparison, "open_parquet", forget_first)
    after = workspace_status(config).rows
    assert [row[2] for row in (*before, *after)] == ["3", "2"]


def test_a_damaged_batch_is_named(tmp_path):
    config = write_round(tmp_path)
    label(config, {"image-0000": config.classes[0]})
    (batch,) = Path(config.workspace, "rounds", "night-1", "batch").iterdir()
    batch.write_bytes(b"")
    with pytest.raises(StorageError, match=batch.name):
        workspace_status(config)
