import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baal_ray import storage
from baal_ray.errors import StorageError, UnfinishedRoundError
from baal_ray.manifest import Manifest
from baal_ray.operations.forgetting import find_traces, forget_images
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.records import encoded

IDS = [f"{number}/canary.jpg" for number in range(6)]
FORGOTTEN = [IDS[1], IDS[4]]


def table(ids, **columns):
    return pa.table({"id": ids, **columns})


def name_of(uri):
    return uri.rsplit("/", 1)[-1]


@pytest.fixture
def workspace(tmp_path):
    return fill(f"{tmp_path}/workspace")


def fill(workspace):
    """Write a finished round, of which two images are labelled, and a labelled set."""
    round_ = f"{workspace}/rounds/night-1"
    uris = [f"/pool/{id}" for id in IDS]
    listing = publish_table(f"{round_}/pool", table(IDS, uri=uris))
    scores = f"{workspace}/scores/0123"
    for ids in (IDS[:3], IDS[3:], ["other.jpg"]):
        publish_table(scores, table(ids, bald=[0.5] * len(ids)))
    candidates = publish_table(f"{round_}/candidates", table(IDS[:4]))
    batch = publish_table(f"{round_}/batch", table(IDS[:3], image=[b"canary"] * 3))
    seeds = f"{workspace}/rounds/labelled-0/batch"
    publish_table(seeds, table(IDS[4:], image=[b"canary"] * 2))
    for stage, content in {
        "plan": {"pool": {"files": [{"uri": listing, "row_groups": [6]}]}, "manifest_version": 0},
        "candidates": {"ids": candidates},
        "batch": {"files": [name_of(batch)]},
        "round": {"candidates": {"ids": candidates}},
    }.items():
        storage.publish(f"{round_}/{stage}.json", json.dumps(content).encode())
    manifest = Manifest(f"{workspace}/manifest")
    seeds = table(IDS[4:], label=["cat", "dog"])
    manifest.add_labelled(seeds, "labelled-0", labelled_by=None)
    manifest.acquire(table(IDS[:3]), "night-1")
    manifest.label(table(IDS[:2], label=["cat", "dog"]))
    return workspace


def test_a_page_that_names_a_forgotten_image_goes_and_another_stays(workspace):
    for name, text in {
        "night-1": f"<span>{IDS[1]}</span>",
        "night-0": "<span>none</span>",
    }.items():
        storage.publish(f"{workspace}/rounds/{name}/report.html", text.encode())
    page = f"{workspace}/rounds/night-1/report.html"
    assert [trace.ids for trace in find_traces(workspace, FORGOTTEN) if trace.uri == page] == [
        [IDS[1]]
    ]
    forget_images(workspace, FORGOTTEN)
    assert not storage.exists(page)
    assert storage.exists(f"{workspace}/rounds/night-0/report.html")


def everything(workspace):
    """Return the content of all files of a workspace, including hidden ones, as text by path."""
    found = {}
    for path in sorted(Path(workspace).rglob("*")):
        if path.is_file():
            parquet = path.suffix == ".parquet"
            text = str(pq.read_table(path).to_pylist()) if parquet else path.read_text()
            found[str(path.relative_to(workspace))] = text
    return found


def without_the_manifest(workspace):
    return {name: t for name, t in everything(workspace).items() if "manifest/" not in name}


def test_a_forgotten_image_is_named_nowhere_and_the_others_are_where_they_were(workspace):
    before = Manifest(f"{workspace}/manifest").rows()
    traces = forget_images(workspace, FORGOTTEN)
    assert ids_of(traces) == set(FORGOTTEN)
    for name, text in everything(workspace).items():
        assert not any(id in text for id in FORGOTTEN), name
    rest = [id for id in IDS if id not in FORGOTTEN]
    kept = pa.compute.invert(pa.compute.is_in(before["id"], pa.array(FORGOTTEN)))
    assert Manifest(f"{workspace}/manifest").rows() == before.filter(kept)
    assert ids_below(f"{workspace}/scores") == sorted([*rest, "other.jpg"])
    assert ids_below(f"{workspace}/rounds/night-1/pool") == rest
    assert ids_below(f"{workspace}/rounds/night-1/batch") == [IDS[0], IDS[2]]
    assert ids_below(f"{workspace}/rounds/labelled-0/batch") == [IDS[5]]


def ids_below(folder):
    files = storage.list_files(folder, ".parquet")
    return sorted(id for file in files for id in pq.read_table(file)["id"].to_pylist())


def test_a_round_names_the_files_that_took_the_place_of_others(workspace):
    forget_images(workspace, FORGOTTEN)
    round_ = f"{workspace}/rounds/night-1"
    (listing,) = storage.list_files(f"{round_}/pool")
    (candidates,) = storage.list_files(f"{round_}/candidates")
    (batch,) = storage.list_files(f"{round_}/batch")
    stages = {name: json.loads(storage.read(f"{round_}/{name}.json")) for name in STAGES}
    for stage in stages.values():
        assert encoded(stage).endswith(f'"checksum": "{stage.pop("checksum")}"\n}}'.encode())
    assert stages["plan"]["pool"]["files"] == [{"uri": listing, "row_groups": [4]}]
    assert stages["plan"]["manifest_version"] == 0
    assert stages["candidates"] == stages["round"]["candidates"] == {"ids": candidates}
    assert stages["batch"] == {"files": [name_of(batch)]}
    for file in (listing, candidates, batch):
        storage.read_verified(file)


STAGES = ("plan", "candidates", "batch", "round")


def test_looking_changes_nothing_and_finds_what_forgetting_finds(workspace):
    before = everything(workspace)
    traces = find_traces(workspace, FORGOTTEN)
    assert everything(workspace) == before
    places = {trace.uri[len(workspace) + 1 :].rsplit("/", 1)[0] for trace in traces}
    night = {f"rounds/night-1/{name}" for name in ("pool", "candidates", "batch")}
    assert places == {*night, "rounds/labelled-0/batch", "scores/0123", "manifest"}
    assert find_traces(workspace, ["nobody"]) == []


def test_forgetting_twice_or_nobody_changes_nothing(workspace):
    forget_images(workspace, FORGOTTEN)
    before = everything(workspace)
    assert forget_images(workspace, [*FORGOTTEN, "nobody"]) == []
    assert everything(workspace) == before


def test_files_of_a_merge_that_failed_and_of_writers_that_were_killed_go_too(workspace):
    orphan = f"{workspace}/manifest/part-00000-orphan-c000.snappy.parquet"
    pq.write_table(table(FORGOTTEN), orphan)
    torn = Path(workspace) / "scores" / "0123" / f".{'0' * 64}.parquet.{'a' * 16}.tmp"
    torn.write_bytes(b"PAR1 1/canary")
    forget_images(workspace, FORGOTTEN)
    assert not storage.exists(orphan)
    assert not torn.exists()


def test_another_image_of_an_old_version_of_the_manifest_stays_readable(workspace):
    manifest = Manifest(f"{workspace}/manifest")
    forget_images(workspace, [IDS[0]])  # of a file that the first version does not have
    assert manifest.at(1).rows()["id"].to_pylist() == IDS[4:]
    with pytest.raises(StorageError, match="cannot be read"):
        manifest.at(2).rows()


def test_on_an_object_store_too(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    workspace = fill(f"{bucket}/work space/rounds")
    assert len(find_traces(workspace, FORGOTTEN)) > 5
    forget_images(workspace, FORGOTTEN)
    assert find_traces(workspace, FORGOTTEN) == []
    assert ids_of(find_traces(workspace, IDS)) == set(IDS) - set(FORGOTTEN)
    (batch,) = storage.list_files(f"{workspace}/rounds/night-1/batch")
    named = json.loads(storage.read(f"{workspace}/rounds/night-1/batch.json"))["files"]
    assert named == [name_of(batch)]
    assert forget_images(workspace, FORGOTTEN) == []


def ids_of(traces):
    return {id for trace in traces for id in trace.ids}


def test_nothing_is_forgotten_while_a_round_is_unfinished(workspace):
    storage.publish(f"{workspace}/rounds/night-2/plan.json", b"{}")
    before = everything(workspace)
    with pytest.raises(UnfinishedRoundError, match="night-2"):
        forget_images(workspace, FORGOTTEN)
    assert everything(workspace) == before


def test_a_rotten_file_of_scores_goes_as_nobody_knows_what_it_holds(workspace):
    rotten = storage.list_files(f"{workspace}/scores", ".parquet")[0]
    storage.publish(rotten, storage.read(rotten)[:100])
    assert rotten in [trace.uri for trace in forget_images(workspace, ["nobody"]) if trace.rotten]
    assert not storage.exists(rotten)


@pytest.mark.parametrize("how", ["empty", "cut", "changed"])
def test_a_rotten_batch_is_told_before_anything_is_changed(workspace, how):
    (batch,) = storage.list_files(f"{workspace}/rounds/night-1/batch")
    data = storage.read(batch)
    changed = re.sub(rb"canary(?!\.jpg)", b"CANARY", data)  # of an image
    spoilt = {"empty": b"", "cut": data[:100], "changed": changed}[how]
    assert spoilt != data
    storage.publish(batch, spoilt)
    before = Manifest(f"{workspace}/manifest").version
    with pytest.raises(StorageError, match=batch):
        forget_images(workspace, FORGOTTEN)
    assert Manifest(f"{workspace}/manifest").version == before


def forget_until(workspace, last):
    """Forget an image, but kill this process before one of the changes to the store."""
    left = last

    def counted(change):
        def change_or_die(*args):
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return change(*args)

        return change_or_die

    storage.publish, storage.delete = counted(storage.publish), counted(storage.delete)
    Manifest.forget = counted(Manifest.forget)
    forget_images(workspace, FORGOTTEN)


@pytest.mark.timeout(120)
def test_killed_before_any_change_it_leaves_a_whole_workspace_and_runs_to_the_same_end(
    workspace, tmp_path
):
    undisturbed, killed = f"{tmp_path}/undisturbed", f"{tmp_path}/killed"
    shutil.copytree(workspace, undisturbed)
    forget_images(undisturbed, FORGOTTEN)
    expected = {k: v.replace(undisturbed, workspace) for k, v in everything(undisturbed).items()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baal_ray.operations.forgetting", "pandas", "pytest"])
    for last in range(100):
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(workspace, killed)
        process = context.Process(target=forget_until, args=(killed, last))
        process.start()
        process.join(60)
        labelled = Manifest(f"{killed}/manifest").labelled()
        for id, round_id in zip(*(labelled[n].to_pylist() for n in ("id", "round")), strict=True):
            assert id in ids_below(f"{killed}/rounds/{round_id}/batch"), (last, id)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        forget_images(killed, FORGOTTEN)
        assert without_the_manifest(killed) == {
            name: text for name, text in expected.items() if "manifest/" not in name
        }
        assert Manifest(f"{killed}/manifest").rows() == Manifest(f"{undisturbed}/manifest").rows()
    assert last > 10


def test_a_damaged_record_is_not_given_a_right_checksum(workspace):
    record = f"{workspace}/rounds/night-1/batch.json"
    whole = encoded(json.loads(storage.read(record)) | {"acquired": 100})
    damaged = whole.replace(b'"acquired": 100', b'"acquired": 900')
    storage.publish(record, damaged)
    forget_images(workspace, FORGOTTEN)
    assert storage.read(record) == damaged
