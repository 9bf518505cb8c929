import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from baal_ray import storage
from baal_ray.errors import LabelError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labels import import_labels
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.operations.forgetting import forget_images


def images(*ids, **columns):
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


@pytest.fixture
def workspace(tmp_path):
    manifest = Manifest(str(tmp_path / "workspace" / "manifest"))
    manifest.acquire(images(*(f"{number}.jpg" for number in range(30))), "night")
    return str(tmp_path / "workspace")


def holding(workspace, *ids):
    files = Path(workspace, "manifest").glob("*.parquet")
    return [file for file in files if {*pq.read_table(file)["id"].to_pylist()} & {*ids}]


def import_one(workspace, path, name, **options):
    storage.publish(path, f"id,label\n{name},cat\n".encode())
    uri = f"{workspace}/manifest"
    return import_labels(Manifest(uri), path, classes=["cat"], overwrite=True, **options)


def import_late(workspace, path, has_read, forgotten):
    """Import a label, but merge only after another process has forgotten an image."""
    merge = VersionedTable.merge

    def merge_late(self, *args):
        VersionedTable.merge = merge
        has_read.set()
        assert forgotten.wait(60)
        # The files of the version are gone. Put one back, as if it had been read in time.
        for name, data in kept.items():
            storage.publish(name, data)
        done = merge(self, *args)
        assert not done
        for name in kept:
            storage.delete(name)
        assert holding(workspace, "0.jpg")  # in the file that this merge has left
        return done

    kept = {str(file): file.read_bytes() for file in Path(workspace, "manifest").glob("*.parquet")}
    VersionedTable.merge = merge_late
    assert import_one(workspace, path, "1.jpg").imported == 1


def context():
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["baal_ray.operations.forgetting", "pandas", "pytest"])
    return found


@pytest.mark.timeout(120)
def test_an_import_that_loses_to_forget_leaves_no_file_with_the_image(workspace, tmp_path):
    ours = context()
    has_read, forgotten = ours.Event(), ours.Event()
    arguments = (workspace, str(tmp_path / "labels.csv"), has_read, forgotten)
    process = ours.Process(target=import_late, args=arguments)
    process.start()
    assert has_read.wait(60)
    forget_images(workspace, ["0.jpg"])
    forgotten.set()
    process.join(60)
    assert process.exitcode == 0
    assert holding(workspace, "0.jpg") == []
    assert Manifest(f"{workspace}/manifest").labelled()["id"].to_pylist() == ["1.jpg"]


def import_many(workspace, path, names, start):
    start.wait()
    for name in names:
        import_one(workspace, path, name)


@pytest.mark.timeout(180)
def test_images_are_forgotten_while_labels_come_in(workspace, tmp_path):
    ours = context()
    start = ours.Barrier(3)
    names = [f"{number}.jpg" for number in range(10, 30)]
    processes = [
        ours.Process(
            target=import_many, args=(workspace, str(tmp_path / f"{n}.csv"), names[n::2], start)
        )
        for n in range(2)
    ]
    for process in processes:
        process.start()
    start.wait()
    for number in range(8):
        forget_images(workspace, [f"{number}.jpg"])
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]
    assert holding(workspace, *(f"{number}.jpg" for number in range(8))) == []
    manifest = Manifest(f"{workspace}/manifest")
    assert manifest.labelled()["id"].to_pylist() == names
    assert manifest.rows()["id"].to_pylist() == sorted([*names, "8.jpg", "9.jpg"])


def test_rows_that_are_gone_because_a_version_was_restored_keep_their_files(
    workspace, monkeypatch
):
    manifest = Manifest(f"{workspace}/manifest")
    version = manifest.version
    manifest.acquire(images("new.jpg"), "next")
    merge = VersionedTable.merge

    def restore_first(self, *args):
        monkeypatch.setattr(VersionedTable, "merge", merge)
        DeltaTable(manifest.uri).restore(version)
        return merge(self, *args)

    monkeypatch.setattr(VersionedTable, "merge", restore_first)
    manifest.label(images("1.jpg", label=["cat"]))
    assert "new.jpg" not in manifest.ids().to_pylist()
    assert holding(workspace, "new.jpg") != []
    assert "new.jpg" in manifest.at(version + 1).ids().to_pylist()


def test_an_image_that_is_forgotten_and_acquired_again_keeps_its_new_file(workspace, monkeypatch):
    manifest = Manifest(f"{workspace}/manifest")
    merge = VersionedTable.merge

    def forget_and_acquire(self, *args):
        monkeypatch.setattr(VersionedTable, "merge", merge)
        forget_images(workspace, ["0.jpg", "2.jpg"])
        Manifest(manifest.uri).acquire(images("0.jpg"), "again")
        return merge(self, *args)

    monkeypatch.setattr(VersionedTable, "merge", forget_and_acquire)
    manifest.label(images("1.jpg", label=["cat"]))
    rows = manifest.rows()
    assert rows.filter(pc.equal(rows["round"], "again"))["id"].to_pylist() == ["0.jpg"]
    assert holding(workspace, "2.jpg") == []


def test_an_import_skips_or_names_an_image_that_is_forgotten_meanwhile(
    workspace, tmp_path, monkeypatch
):
    label = Manifest.label

    def forget_first(image):
        def forget_and_label(self, *args, **options):
            monkeypatch.setattr(Manifest, "label", label)
            forget_images(workspace, [image])
            return label(self, *args, **options)

        monkeypatch.setattr(Manifest, "label", forget_and_label)

    forget_first("1.jpg")
    done = import_one(workspace, str(tmp_path / "1.csv"), "1.jpg", skip_unknown=True)
    assert (done.imported, done.skipped) == (0, 1)
    forget_first("2.jpg")
    with pytest.raises(LabelError, match=r"line 2: id '2\.jpg' is not in the manifest"):
        import_one(workspace, str(tmp_path / "2.csv"), "2.jpg")
