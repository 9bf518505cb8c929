import multiprocessing
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from baal_ray.manifest import Manifest
from baal_ray.manifest.compaction import _MOST_SMALL_FILES
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.operations.forgetting import forget_images

MANY = _MOST_SMALL_FILES + 1


@pytest.fixture
def manifest(tmp_path):
    return Manifest(str(tmp_path / "workspace" / "manifest"))


def images(*ids, **columns):
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


def fill(manifest, rounds=MANY):
    for number in range(rounds):
        manifest.acquire(images(f"{number}-a", f"{number}-b"), f"round-{number}")
    return manifest


def files(manifest):
    return len(DeltaTable(manifest.uri).file_uris())


def test_few_files_stay_and_many_become_one_with_the_same_rows(manifest):
    assert not manifest.compact()  # there is no table yet
    fill(manifest, _MOST_SMALL_FILES)
    assert not manifest.compact()
    manifest.acquire(images("new"), "new")
    rows, version = manifest.rows(), manifest.version
    assert files(manifest) == MANY
    assert manifest.compact()
    assert files(manifest) == 1
    assert manifest.rows() == rows
    assert manifest.at(version).rows() == rows
    assert manifest.rounds() == [*(f"round-{n}" for n in range(_MOST_SMALL_FILES)), "new"]
    assert manifest.history()[0]["change"] == "compact"
    assert not manifest.compact()


def checkpoints(manifest):
    found = Path(manifest.uri, "_delta_log").glob("*.checkpoint.parquet")
    return sorted(int(path.name[:20]) for path in found)


def test_every_tenth_version_has_a_checkpoint_whoever_makes_it(manifest):
    fill(manifest, 11)
    assert checkpoints(manifest) == [10]
    fill_up = (images(f"more-{number}") for number in range(8))
    for number, batch in enumerate(fill_up):
        manifest.acquire(batch, f"more-{number}")
    assert manifest.version == 19
    assert manifest.compact()
    assert checkpoints(manifest) == [10, 20]


def test_a_commit_stands_if_its_checkpoint_cannot_be_written(manifest):
    fill(manifest)
    Path(manifest.uri, "_delta_log", "_last_checkpoint").mkdir()
    assert manifest.acquire(images("ten"), "ten") == 1
    assert manifest.version == 10


def test_who_loses_to_another_commit_gives_up_quietly(manifest, monkeypatch):
    fill(manifest)
    read = VersionedTable.read

    def read_and_lose(self, *args):
        rows = read(self, *args)
        monkeypatch.setattr(VersionedTable, "read", read)
        manifest.label(images("0-a", label=["cat"]))
        return rows

    monkeypatch.setattr(VersionedTable, "read", read_and_lose)
    assert not manifest.compact()
    assert manifest.labelled()["id"].to_pylist() == ["0-a"]
    assert files(manifest) == MANY
    assert manifest.compact()


def test_a_store_that_fails_is_no_fault_of_a_compaction(manifest):
    fill(manifest)
    for file in Path(manifest.uri).glob("*.parquet"):
        file.unlink()
    assert not manifest.compact()


def test_what_a_compaction_wrote_in_vain_holds_no_image_that_was_forgotten(manifest, monkeypatch):
    fill(manifest)
    read = VersionedTable.read

    def read_and_lose(self, *args):
        rows = read(self, *args)
        monkeypatch.setattr(VersionedTable, "read", read)
        forget_images(str(Path(manifest.uri).parent), ["3-a"])
        return rows

    monkeypatch.setattr(VersionedTable, "read", read_and_lose)
    assert not manifest.compact()
    assert holding(manifest, "3-a") == []
    assert holding(manifest, "3-b") != []


def holding(manifest, id):
    files = Path(manifest.uri).glob("*.parquet")
    return [file for file in files if id in pa.parquet.read_table(file)["id"].to_pylist()]


def test_what_was_compacted_is_forgotten_too(manifest):
    fill(manifest).compact()
    assert len(holding(manifest, "3-a")) == 2
    forget_images(str(Path(manifest.uri).parent), ["3-a"])
    assert holding(manifest, "3-a") == []
    assert manifest.rows().num_rows == 2 * MANY - 1


def label_all(uri, start):
    start.wait()
    for number in range(MANY):
        Manifest(uri).label(images(f"{number}-a", label=["cat"]))


def acquire_some(uri, start):
    start.wait()
    for number in range(6):
        Manifest(uri).acquire(images(f"new-{number}"), f"new-{number}")


def compact_often(uri, start):
    start.wait()
    for _ in range(12):
        Manifest(uri).compact()


@pytest.mark.timeout(120)
def test_nothing_is_lost_or_doubled_while_compactions_race_with_changes(manifest):
    fill(manifest)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["baal_ray.manifest", "pandas", "pytest"])
    start = context.Barrier(3)
    targets = (label_all, acquire_some, compact_often)
    processes = [context.Process(target=target, args=(manifest.uri, start)) for target in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert manifest.labelled()["id"].to_pylist() == sorted(f"{n}-a" for n in range(MANY))
    expected = [f"{n}-{x}" for n in range(MANY) for x in "ab"] + [f"new-{n}" for n in range(6)]
    assert manifest.rows()["id"].to_pylist() == sorted(expected)
