"""Tests of two drivers of one round without a shared lock, while another round takes a pick."""

import threading

import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.driver.commit import Commit, restored
from baal_ray.driver.round import _Round
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import batch_uri, manifest_uri
from baal_ray.workspace.rounds import StageResults
from baal_ray.workspace.stage_files import BatchResult
from baal_ray.workspace.table_schemas import BATCH
from pools import picture, round_config
from stage_files import NO_FIT, NO_SCORES, batch_result, plan

RANKING = [f"image-{number:04}" for number in range(20)]


class Driver:
    """The last steps of a round's driver, without Ray. It picks five from a fixed ranking."""

    def __init__(self, config, round_id):
        self.folder = batch_uri(config.workspace, round_id)
        self.results = StageResults(config.workspace, round_id)
        self.commits = Commit(config.workspace, round_id, self.results)
        self._round = _Round(config, round_id)
        self._manifest = Manifest(manifest_uri(config.workspace))

    def pick(self):
        taken = IdSet.of(self._manifest.ids()).contains(RANKING)
        picks = [id for id, gone in zip(RANKING, taken, strict=True) if not gone][:5]
        nulls = [None] * 5
        columns = {"id": picks, "rank": range(1, 6), "rule": ["random"] * 5}
        columns["image"] = [picture(0, 0)] * 5
        arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in BATCH]
        uri = publish_table(self.folder, pa.table(arrays, schema=BATCH))
        return batch_result([uri.rsplit("/", 1)[1]], 5, "random")

    def attempt(self, number=1):
        return self.results.once(BatchResult, self.pick, number)

    def commit(self):
        """Commit, as a driver does that is killed before it writes the round's record."""
        return self.commits.acquire(self.attempt, self.restore)[1]

    def restore(self, rows):
        """Write a batch with the rows of the manifest."""
        columns = {name: rows[name] for name in BATCH.names if name in rows.column_names}
        columns |= {"predicted": pa.nulls(len(rows)), "image": [picture(0, 0)] * len(rows)}
        table = pa.table({name: columns[name] for name in BATCH.names}).cast(BATCH)
        uri = publish_table(self.folder, table)
        return restored(rows, [uri.rsplit("/", 1)[1]])

    def finish(self):
        batch = self.commit()
        self.commits.delete_strays(batch)
        return self._round._finish(plan(), NO_FIT, NO_SCORES, None, batch)

    def finished(self):
        return self._round._finished()


class Slow(Manifest):
    """A manifest that waits once, before its first commit or after a refusal, until told to go."""

    def __init__(self, uri, stop):
        super().__init__(uri)
        self.stop, self.at, self.go = stop, threading.Event(), threading.Event()

    def _wait(self):
        if not self.at.is_set():
            self.at.set()
            assert self.go.wait(30)

    def acquire(self, batch, round_id):
        if self.stop == "before":
            self._wait()
        try:
            return super().acquire(batch, round_id)
        finally:
            if self.stop == "after":
                self._wait()


@pytest.fixture
def config(tmp_path):
    return round_config(tmp_path, selection={"k": 5})


def ids_of(config, round_id="night"):
    return Manifest(manifest_uri(config.workspace)).rows(round_id=round_id)["id"].to_pylist()


@pytest.mark.parametrize("stop", ["before", "after"])
def test_the_slower_of_two_drivers_takes_what_the_faster_has_committed(config, stop):
    slow, fast = Driver(config, "night"), Driver(config, "night")
    manifest = slow.commits._manifest = Slow(manifest_uri(config.workspace), stop)
    slow.attempt()
    theirs = pa.table({"id": [RANKING[0]]})
    Manifest(manifest_uri(config.workspace)).acquire(theirs, "theirs")
    told = []
    thread = threading.Thread(target=lambda: told.append(slow.commit()))
    thread.start()
    assert manifest.at.wait(30)
    batch = fast.commit()
    manifest.go.set()
    thread.join(30)
    assert told[0].files == batch.files
    assert ids_of(config) == RANKING[1:6]
    result = Driver(config, "night").finish()
    assert result.acquired == 5
    assert storage.list_files(slow.folder) == [f"{slow.folder}/{name}" for name in batch.files]
    assert Driver(config, "night").finished().committed_before


def test_the_committed_batch_counts_when_a_later_one_was_picked_beside_it(config):
    # The pick that another round took becomes free again, while a driver that lost it picks again.
    manifest = Manifest(manifest_uri(config.workspace))
    driver = Driver(config, "night")
    first = driver.attempt(1)
    manifest.acquire(pa.table({"id": [RANKING[0]]}), "theirs")
    driver.attempt(2)
    manifest.release(pa.table({"id": [RANKING[0]]}))
    manifest.acquire(pa.table({"id": RANKING[:5]}), "night")
    for _ in range(2):  # the second time, the other's files are gone
        assert driver.commit().files == first.files
        driver.commits.delete_strays(first)
    assert driver.finish().acquired == 5


@pytest.mark.parametrize("lost", ["batch.json", "batch"])
def test_a_committed_batch_that_is_lost_is_made_from_the_manifest(config, lost):
    driver = Driver(config, "night")
    before = driver.commit()
    storage.delete_tree(f"{driver.folder.removesuffix('/batch')}/{lost}")
    again = driver.commit()
    assert (again.acquired, again.random, again.rule) == (5, 5, "random")
    assert ids_of(config) == RANKING[:5]
    assert driver.commit() == again
    assert driver.finish().acquired == before.acquired == 5


@pytest.mark.parametrize("lost", ["batch.json", "batch"])
def test_a_batch_that_is_lost_before_its_commit_is_picked_again(config, lost):
    driver = Driver(config, "night")
    driver.attempt()
    (file,) = storage.list_files(driver.folder)
    storage.publish(driver.results.uri(BatchResult) if lost == "batch.json" else file, b"damaged")
    batch = driver.commit()
    assert ids_of(config) == RANKING[:5]
    assert driver.results.read(BatchResult, 2) == batch
