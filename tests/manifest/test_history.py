from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(str(tmp_path / "manifest"))
    for number in range(6):
        manifest.acquire(pa.table({"id": [str(number)]}), f"round-{number}")
    return manifest


def clean_log(manifest, below):
    """Delete the log's entries below a version, as another engine does after a checkpoint."""
    DeltaTable(manifest.uri).create_checkpoint()
    for entry in Path(manifest.uri, "_delta_log").glob("*.json"):
        if int(entry.stem) < below:
            entry.unlink()


@pytest.mark.parametrize("below", [3, 6])
def test_a_log_that_another_program_cleaned_is_read_as_far_as_it_goes(manifest, caplog, below):
    whole = manifest.history()
    assert caplog.messages == []
    clean_log(manifest, below)
    assert manifest.history() == whole[: 7 - below]
    assert f"begins at version {below}" in caplog.text
    assert manifest.rounds() == [f"round-{number}" for number in range(6)]
    assert manifest.acquire(pa.table({"id": ["6"]}), "round-6") == 1
    assert [event["version"] for event in manifest.history()] == list(range(7, below - 1, -1))


def test_a_version_that_another_program_cleaned_is_named(manifest):
    clean_log(manifest, 5)
    with pytest.raises(StorageError, match="cannot be read at version 2"):
        manifest.at(2).rows()
    assert manifest.unneeded_files(keep=[2]) == manifest.unneeded_files(keep=[6]) == []


def test_a_commit_that_comes_in_between_does_not_shift_the_versions(manifest, monkeypatch):
    history = DeltaTable.history

    def commit_and_read(self, limit=None):
        monkeypatch.setattr(DeltaTable, "history", history)
        manifest.acquire(pa.table({"id": ["late"]}), "late")
        return self.history(limit)

    monkeypatch.setattr(DeltaTable, "history", commit_and_read)
    changes = {event["version"]: event["round"] for event in manifest.history()}
    assert changes == {0: None, **{n + 1: f"round-{n}" for n in range(6)}, 7: "late"}
