import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from baal_ray import storage
from baal_ray.errors import CorruptFileError
from baal_ray.manifest import Manifest
from baal_ray.operations.pruning import plan_pruning
from baal_ray.storage.scratch import scratch_folders
from baal_ray.workspace import manifest_uri
from baal_ray.workspace.records import FitRecord, encoded
from stage_files import fingerprint, fit_result, plan, put, round_record


@pytest.fixture
def workspace(tmp_path):
    return fill(str(tmp_path))


def fill(workspace):
    """Write four nights, at random, with model a, twice with model b, and a fit made by hand."""
    for number, checkpoint in enumerate([None, "a", "b", "b"]):
        begin(workspace, f"night-{number + 8}", number, checkpoint)
        write(workspace, f"rounds/night-{number + 8}/batch/1.parquet", "image")
        finish(workspace, f"night-{number + 8}", checkpoint)
    for checkpoint in ("a", "b", "hand"):
        fitted(workspace, checkpoint)
    return workspace


def sha(name):
    """Return the sha256 that names a model; None stays None."""
    return name and storage.sha256(name.encode())


def begin(workspace, round_id, version, *checkpoint):
    put(workspace, round_id, plan(version), *map(fit_result, map(sha, checkpoint)))


def finish(workspace, round_id, checkpoint):
    put(workspace, round_id, round_record(round_id, checkpoint=sha(checkpoint)))


def fitted(workspace, name):
    """Write the files that a fit, Ray Train and the scoring with the model leave behind."""
    write(workspace, f"checkpoints/{sha(name)}/model.safetensors", "weights")
    write(
        workspace, f"fits/{name}/fit.json", FitRecord(checkpoint=sha(name), labels=1, history=[])
    )
    write(workspace, f"fits/{name}/checkpoint_2026/state.pt", "state")
    for samples in (8, 100):
        write(
            workspace, f"scores/{name}{samples}/_fingerprint.json", fingerprint(sha(name), samples)
        )
        write(workspace, f"scores/{name}{samples}/1.parquet", "scores")


def write(workspace, name, content):
    data = content.encode() if isinstance(content, str) else content.to_json()
    storage.publish(f"{workspace}/{name}", data)


def files(workspace):
    return {name for name in storage.walk_files(workspace) if "/_delta_log/" not in name}


def prune(workspace, keep=1):
    """Prune a workspace, and return the files that are gone and the sizes by kind."""
    before = files(workspace)
    pruning = plan_pruning(workspace, keep=keep)
    assert files(workspace) == before
    sizes = {removal.what: removal.bytes for removal in pruning.removals}
    pruning.run()
    gone = before - files(workspace)
    assert plan_pruning(workspace, keep=keep).removals == []
    return gone, sizes


OLD = {
    f"checkpoints/{sha('a')}/model.safetensors",
    "fits/a/fit.json",
    "fits/a/checkpoint_2026/state.pt",
    "scores/a8/_fingerprint.json",
    "scores/a8/1.parquet",
    "scores/a100/_fingerprint.json",
    "scores/a100/1.parquet",
}
EPOCHS = {"fits/b/checkpoint_2026/state.pt", "fits/hand/checkpoint_2026/state.pt"}


def test_a_new_workspace_has_nothing_to_prune(tmp_path):
    assert plan_pruning(str(tmp_path), keep=1).removals == []


def test_what_only_old_rounds_used_goes_and_all_else_stays(workspace):
    gone, sizes = prune(workspace)
    assert gone == OLD | EPOCHS
    assert sizes["models"] == len("weights")
    assert sizes["epochs of finished fits"] == 2 * len("state")


def test_on_an_object_store_too(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert prune(fill(f"{bucket}/work space"))[0] == OLD | EPOCHS


@pytest.mark.parametrize("keep", [3, 4, 100])
def test_the_last_rounds_keep_theirs(workspace, keep):
    assert prune(workspace, keep)[0] == EPOCHS | {"fits/a/checkpoint_2026/state.pt"}


def test_the_last_rounds_are_those_of_the_last_versions_whatever_they_are_called(workspace):
    begin(workspace, "0", 9, "c")
    finish(workspace, "0", "c")
    fitted(workspace, "c")
    gone, _ = prune(workspace)
    assert {
        f"checkpoints/{sha('a')}/model.safetensors",
        f"checkpoints/{sha('b')}/model.safetensors",
    } <= gone
    assert f"checkpoints/{sha('c')}/model.safetensors" not in gone


def test_an_unfinished_round_keeps_its_model(workspace):
    begin(workspace, "night-12", 4, "a")
    assert prune(workspace)[0] == EPOCHS | {"fits/a/checkpoint_2026/state.pt"}


def test_a_round_that_has_no_model_yet_might_take_any(workspace):
    begin(workspace, "night-12", 4)
    assert plan_pruning(workspace, keep=1).waiting_for == ["night-12"]
    assert prune(workspace)[0] == set()


def prune_until(workspace, last):
    """Prune, but kill this process before one of the operating system's removals."""
    left = last

    def counted(remove):
        def remove_or_die(*args, **kwargs):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return remove(*args, **kwargs)

        return remove_or_die

    pruning = plan_pruning(workspace, keep=1)
    for name in ("remove", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))
    pruning.run()


@pytest.mark.timeout(180)
def test_killed_before_any_removal_the_rest_goes_the_next_time(workspace, tmp_path):
    # A fit's record never outlives its model. Otherwise the same labels would get a missing model.
    killed = f"{tmp_path}-killed"
    prune(workspace)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baal_ray.operations.pruning", "pytest"])
    for last in range(100):
        shutil.rmtree(killed, ignore_errors=True)
        process = context.Process(target=prune_until, args=(fill(killed), last))
        process.start()
        process.join(60)
        for record in storage.list_files(f"{killed}/fits", "/fit.json"):
            checkpoint = FitRecord.read(record, "").checkpoint
            assert storage.exists(f"{killed}/checkpoints/{checkpoint}/model.safetensors"), last
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        plan_pruning(killed, keep=1).run()
        assert files(killed) == files(workspace), last
    assert last > 10


def test_a_round_that_begins_after_the_plan_of_the_pruning_keeps_what_it_needs(workspace):
    pruning = plan_pruning(workspace, keep=1)
    begin(workspace, "night-12", 4, "a")
    done = pruning.run()
    assert {removal.what for removal in done} == {"epochs of finished fits"}
    assert files(workspace) >= OLD - {"fits/a/checkpoint_2026/state.pt"}
    begin(workspace, "night-13", 4)
    finish(workspace, "night-12", "b")
    assert plan_pruning(workspace, keep=1).run() == []


def test_a_round_that_begins_between_two_kinds_of_files_keeps_what_is_left(workspace, monkeypatch):
    pruning, delete_tree = plan_pruning(workspace, keep=1), storage.delete_tree

    def delete_and_begin(uri, **options):
        delete_tree(uri, **options)
        begin(workspace, "night-12", 4)

    monkeypatch.setattr(storage, "delete_tree", delete_and_begin)
    (done,) = pruning.run()
    assert done.what == "fits of these models"
    assert f"checkpoints/{sha('a')}/model.safetensors" in files(workspace)


def test_nothing_outside_of_the_workspace_is_removed(tmp_path):
    workspace = fill(f"{tmp_path}/ws")
    write(str(tmp_path), "precious/model.safetensors", "weights")
    for outside in ("../../precious", f"{tmp_path}/precious"):
        record = Path(workspace, "rounds", "night-9", "round.json")
        plain = json.loads(record.read_text())
        plain["result"]["checkpoint"] = outside
        record.write_bytes(encoded(plain))
        with pytest.raises(CorruptFileError, match="must be a sha256"):
            plan_pruning(workspace, keep=1)
    assert storage.exists(f"{tmp_path}/precious/model.safetensors")


def test_what_killed_writers_left_goes_after_a_day(tmp_path):
    names = [f".{name}.{'0' * 16}.tmp" for name in ("old.parquet", "new.parquet")]
    for name in [*names, ".old.parquet.tmp"]:
        write(str(tmp_path), f"scores/0/{name}", "half a f")
    yesterday = time.time() - 25 * 3600
    for name in (names[0], ".old.parquet.tmp"):
        os.utime(tmp_path / "scores" / "0" / name, (yesterday, yesterday))
    (removal,) = plan_pruning(str(tmp_path), keep=1).removals
    assert removal.uris == [str(tmp_path / "scores" / "0" / names[0])]
    assert removal.bytes == len("half a f")


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_what_killed_processes_tried_the_store_with_goes_after_a_day(where, request, tmp_path):
    workspace = str(tmp_path)
    if where == "s3":
        workspace = f"{request.getfixturevalue('bucket')}/nightly"
    now = int(time.time())
    kept, old = f"_scratch-{now - 3600}-{'0' * 16}", f"_scratch-{now - 90_000}-{'0' * 16}"
    for name in (kept, old, f"manifest/{old}"):
        write(workspace, f"{name}/nonce", "x")
    prune(workspace)
    assert set(scratch_folders(workspace)) == {f"{workspace}/{kept}"}
    assert scratch_folders(f"{workspace}/manifest") == {}


def test_the_manifest_keeps_its_rows_and_the_versions_that_unfinished_rounds_began_at(tmp_path):
    workspace = str(tmp_path)
    manifest = Manifest(manifest_uri(workspace))
    for number in range(4):
        manifest.acquire(pa.table({"id": [str(number)]}), f"night-{number}")
        manifest.label(pa.table({"id": ["0"], "label": [str(number)]}), overwrite=True)
    assert plan_pruning(workspace, keep=1).removals == []  # all of it is of this week
    no_time = {"delta.deletedFileRetentionDuration": "interval 0 days"}
    DeltaTable(manifest.uri).alter.set_table_properties(no_time)
    planned_on = {"night-4": 4, "night-5": 2, "night-6": -1}
    for round_id, version in planned_on.items():
        begin(workspace, round_id, version)
    rows, then = manifest.rows(), [manifest.at(v).rows() for v in planned_on.values()]
    gone, sizes = prune(workspace)
    assert gone
    assert list(sizes) == ["files of manifest versions older than a week"]
    assert manifest.rows() == rows
    assert [manifest.at(version).rows() for version in planned_on.values()] == then
    assert manifest.rounds() == [f"night-{number}" for number in range(4)]
    manifest.acquire(pa.table({"id": ["4"]}), "night-4")


@pytest.mark.parametrize("record", ["fits/b/fit.json", "scores/b8/_fingerprint.json"])
def test_a_rotten_record_is_named(workspace, record):
    write(workspace, record, "")
    with pytest.raises(CorruptFileError, match=rf"{record} \(0 bytes\) is .* Delete the folder"):
        plan_pruning(workspace, keep=1)
