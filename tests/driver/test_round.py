"""Two drivers of one round on machines that share no lock, while another round takes a pick."""

import threading

import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.driver.round import _Round
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import manifest_uri
from baal_ray.workspace.schema import BATCH
from pools import picture, round_config

RANKING = [f"image-{number:04}" for number in range(20)]
FIT = {"checkpoint": None, "labels": 0, "metrics": {}, "seconds": 0.0}
SCORES = {"scores": None, "scored": 0, "unreadable": 0, "seconds": 0.0}


class Driver(_Round):
    """One that picks the first five of a fixed ranking, and no Ray."""

    def _pick(self, plan, fit, scores, candidates=None):
        taken = self._acquired().contains(RANKING)
        picks = [id for id, gone in zip(RANKING, taken, strict=True) if not gone][:5]
        nulls = [None] * 5
        columns = {"id": picks, "rank": range(1, 6), "rule": ["random"] * 5}
        columns["image"] = [picture(0, 0)] * 5
        arrays = [pa.array(columns.get(field.name, nulls), field.type) for field in BATCH]
        uri = publish_table(self._batch_folder, pa.table(arrays, schema=BATCH))
        name = uri.rsplit("/", 1)[1]
        return {"acquired": 5, "rule": "random", "stability": None, "files": [name]}

    def commit(self):
        """Up to the commit; what a kill before the round's record leaves."""
        return self._acquire({}, FIT, SCORES)

    def finish(self):
        return self._finish(FIT, SCORES, *self.commit())


class Slow(Manifest):
    """Stops at its first commit, before it or when it was refused, until it may go on."""

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
    slow._manifest = Slow(manifest_uri(config.workspace), stop)
    slow._results.once("batch", lambda: slow._pick({}, FIT, SCORES))
    theirs = pa.table({"id": [RANKING[0]]})
    Manifest(manifest_uri(config.workspace)).acquire(theirs, "theirs")
    told = []
    thread = threading.Thread(target=lambda: told.append(slow.commit()))
    thread.start()
    assert slow._manifest.at.wait(30)
    _, batch = fast.commit()
    slow._manifest.go.set()
    thread.join(30)
    assert told[0][1]["files"] == batch["files"]
    assert ids_of(config) == RANKING[1:6]
    result = Driver(config, "night").finish()
    assert result.acquired == 5
    assert storage.list_files(slow._batch_folder) == slow._batch_files(batch)
    assert Driver(config, "night")._finished().committed_before


def test_the_committed_batch_counts_when_a_later_one_was_picked_beside_it(config):
    """The pick that another round took came back while a driver that lost it picked anew."""
    manifest = Manifest(manifest_uri(config.workspace))
    driver = Driver(config, "night")
    first = driver._results.once("batch", lambda: driver._pick({}, FIT, SCORES))
    manifest.acquire(pa.table({"id": [RANKING[0]]}), "theirs")
    driver._results.once("batch-2", lambda: driver._pick({}, FIT, SCORES))
    manifest.release(pa.table({"id": [RANKING[0]]}))
    manifest.acquire(pa.table({"id": RANKING[:5]}), "night")
    for _ in range(2):  # the second time, the other's files are gone
        assert driver.commit()[1]["files"] == first["files"]
        driver._delete_strays(first)
    assert driver.finish().acquired == 5


def test_a_committed_round_whose_batch_is_lost_is_told_so(config):
    driver = Driver(config, "night")
    driver.commit()
    storage.delete(driver._results.uri("batch"))
    with pytest.raises(StorageError, match=r"with 5 picks.*put back its batch\.json"):
        driver.commit()
