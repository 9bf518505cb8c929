import multiprocessing
import unicodedata
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable

from baal_ray.errors import AlreadyAcquiredError, ManifestError, StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.versioned_table import VersionedTable
from baal_ray.workspace.table_schemas import MANIFEST

AWKWARD_IDS = [
    unicodedata.normalize("NFC", "café.jpg"),
    unicodedata.normalize("NFD", "café.jpg"),
    "🦊" * 20,
    "2026/11/22/cat.jpg",
    "x" * 1024,
    "é" * 512,
    "'; DROP TABLE manifest; --",
    '" OR 1=1 --',
    "target.id",
    "a\nb\tc\\",
    "{0} %s $1",
    "",
    " ",
]


@pytest.fixture
def manifest(tmp_path):
    return Manifest(str(tmp_path / "manifest"))


def batch(*ids, **columns):
    return pa.table({"id": pa.array(ids, pa.string()), **columns})


def labels(**label_of):
    return pa.table({"id": list(label_of), "label": list(label_of.values())})


def release(manifest, id):
    DeltaTable(manifest.uri).update({"status": "'released'"}, predicate=f"id = '{id}'")


def column(table, name):
    return dict(zip(table["id"].to_pylist(), table[name].to_pylist(), strict=True))


def test_a_manifest_that_does_not_exist_is_empty_and_reading_creates_nothing(manifest, tmp_path):
    assert manifest.version == -1
    assert manifest.labelled().schema == MANIFEST
    assert len(manifest.ids()) == manifest.rows().num_rows == 0
    assert manifest.history() == []
    assert list(tmp_path.iterdir()) == []


def test_acquire_keeps_what_the_batch_says_and_leaves_the_rest_null(manifest):
    before = datetime.now(UTC)
    scored = batch(
        "b",
        "a",
        source=["pool/1.parquet", None],
        score=pa.array([0.5, 0.25], pa.float64()),
        rule=["bald", "bald"],
        model=pa.array(["abc", "abc"]).dictionary_encode(),
        image=[b"...", b"..."],
    )
    assert manifest.acquire(scored, "2026-11-22") == 2
    a, b = manifest.rows().to_pylist()
    acquired_at = b.pop("acquired_at")
    assert before <= acquired_at <= datetime.now(UTC)
    assert b == {
        "id": "b",
        "source": "pool/1.parquet",
        "round": "2026-11-22",
        "rank": 1,
        "score": 0.5,
        "rule": "bald",
        "model": "abc",
        "status": "acquired",
        "label": None,
        "labelled_by": None,
        "labelled_at": None,
    }
    assert (a["rank"], a["source"]) == (2, None)
    assert manifest.rows().schema == MANIFEST


def test_ranks_are_kept_where_the_batch_has_them(manifest):
    manifest.acquire(batch("a", "b", rank=pa.array([7, 3], pa.int64())), "r")
    assert column(manifest.rows(), "rank") == {"a": 7, "b": 3}


def test_the_same_round_twice_writes_nothing_the_second_time(manifest):
    manifest.acquire(batch("a", "b"), "r")
    manifest.label(labels(a="cat"))
    version = manifest.version
    assert manifest.acquire(batch("b", "a"), "r") == 0
    assert manifest.version == version


def test_an_empty_batch_writes_nothing(manifest):
    assert manifest.acquire(batch(), "r") == 0
    assert manifest.version == -1
    manifest.acquire(batch("a"), "r")
    assert manifest.acquire(batch(), "r") == 0
    assert manifest.label(labels()) == 0
    assert manifest.history()[0]["change"] == "acquire"


def test_ids_of_another_round_refuse_the_whole_batch(manifest):
    manifest.acquire(batch("a", "b"), "first")
    with pytest.raises(AlreadyAcquiredError) as caught:
        manifest.acquire(batch("c", "b"), "second")
    assert caught.value.ids == ["b"]
    assert column(manifest.rows(), "round") == {"a": "first", "b": "first"}


@pytest.mark.parametrize("other", [batch("a"), batch("a", "b", "c"), batch("a", "c")])
def test_a_round_that_is_there_with_other_ids_is_refused(manifest, other):
    manifest.acquire(batch("a", "b"), "r")
    with pytest.raises(ManifestError, match="'r' is in the manifest with 2 ids") as caught:
        manifest.acquire(other, "r")
    assert not isinstance(caught.value, AlreadyAcquiredError)
    assert manifest.rows().num_rows == 2


def test_a_released_image_returns_to_the_pool_and_can_be_acquired_again(manifest):
    manifest.acquire(batch("a", "b"), "first")
    release(manifest, "a")
    assert manifest.ids().to_pylist() == ["b"]
    assert manifest.acquire(batch("a", "c"), "second") == 2
    assert column(manifest.rows(), "round") == {"a": "second", "b": "first", "c": "second"}
    assert column(manifest.rows(), "status") == dict.fromkeys("abc", "acquired")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (pa.table({"name": ["a"]}), "'id' is missing; the table has \\['name'\\]"),
        (batch("a", None), "'id' is null in 1 of 2 rows"),
        (batch("a", "b", "a"), "1 ids are duplicated \\('a'\\)"),
        (pa.table({"id": [1, 2]}), "'id' is int64; it must be string"),
        (batch("a", score=["high"]), "'score' is string; it must fit float"),
        (batch("a", rank=[2**40]), "'rank' is int64; it must fit int32"),
    ],
)
def test_a_wrong_batch_is_refused_before_anything_is_written(manifest, wrong, told):
    with pytest.raises(ManifestError, match=told):
        manifest.acquire(wrong, "r")
    assert manifest.version == -1


def test_a_round_needs_a_name(manifest):
    with pytest.raises(ManifestError, match="round_id is empty"):
        manifest.acquire(batch("a"), "")


def test_awkward_ids_stay_byte_exact_and_harmless(manifest):
    manifest.acquire(batch(*AWKWARD_IDS, "plain"), "r" * 300)
    label_of = {id: f"label of {id}" for id in AWKWARD_IDS}
    table = pa.table({"id": list(label_of), "label": list(label_of.values())})
    assert manifest.label(table) == len(AWKWARD_IDS)
    assert column(manifest.labelled(), "label") == label_of
    assert column(manifest.rows(round_id="r" * 300), "label") == label_of | {"plain": None}
    assert manifest.ids().to_pylist().count("plain") == 1


def test_large_and_view_strings_are_as_good(manifest):
    for kind in (pa.large_string(), pa.string_view()):
        manifest.acquire(pa.table({"id": pa.array([str(kind)], kind)}), str(kind))
    assert manifest.rows()["id"].to_pylist() == ["large_string", "string_view"]


def test_label_sets_label_status_time_and_who(manifest):
    manifest.acquire(batch("a", "b", "c"), "r")
    table = labels(a="cat", b="dog").append_column("labelled_by", [["ann", None]])
    assert manifest.label(table) == 2
    a, b = manifest.labelled().to_pylist()
    assert (a["label"], a["labelled_by"], b["label"], b["labelled_by"]) == (
        "cat",
        "ann",
        "dog",
        None,
    )
    assert a["acquired_at"] < a["labelled_at"] <= datetime.now(UTC)
    assert (a["rank"], b["rank"]) == (1, 2)
    assert manifest.rows(status="acquired")["id"].to_pylist() == ["c"]


def test_the_same_label_again_changes_nothing_and_new_ones_beside_it_land(manifest):
    manifest.acquire(batch("a", "b"), "r")
    manifest.label(labels(a="cat"))
    first = manifest.labelled()
    assert manifest.label(labels(a="cat")) == 0
    assert manifest.label(labels(a="cat", b="dog")) == 1
    assert manifest.labelled().slice(0, 1) == first


def test_another_label_is_refused_unless_overwriting(manifest):
    manifest.acquire(batch("a", "b"), "r")
    manifest.label(labels(a="cat"))
    with pytest.raises(ManifestError, match=r"'a' is 'cat', not 'dog'.*overwrite=True"):
        manifest.label(labels(a="dog", b="dog"))
    assert column(manifest.rows(), "label") == {"a": "cat", "b": None}
    assert manifest.label(labels(a="dog", b="dog"), overwrite=True) == 2
    assert column(manifest.labelled(), "label") == {"a": "dog", "b": "dog"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (labels(a="cat", z="dog"), "1 ids are not in the manifest \\('z'\\)"),
        (pa.table({"id": ["a", "a"], "label": ["cat", "cat"]}), "1 ids are duplicated \\('a'\\)"),
        (pa.table({"id": ["a"], "label": pa.nulls(1)}), "'label' is null in 1 of 1"),
        (pa.table({"id": ["a"], "label": [3]}), "'label' is int64"),
        (pa.table({"id": ["a"]}), "'label' is missing"),
    ],
)
def test_wrong_labels_are_refused(manifest, wrong, told):
    manifest.acquire(batch("a"), "r")
    with pytest.raises(ManifestError, match=told):
        manifest.label(wrong)
    assert manifest.labelled().num_rows == 0


def test_a_labelled_set_comes_in_once_and_is_labelled_straight_away(manifest):
    seeds = labels(b="dog", a="cat").append_column("source", [["s", "s"]])
    assert manifest.add_labelled(seeds, "seeds", labelled_by="import") == 2
    assert manifest.add_labelled(seeds, "seeds", labelled_by="import") == 0
    a, _ = manifest.labelled().to_pylist()
    assert (a["rank"], a["rule"], a["labelled_by"], a["source"]) == (None, None, "import", "s")
    assert a["acquired_at"] == a["labelled_at"]
    with pytest.raises(ManifestError, match=r"'a' is 'cat', not 'dog'.*Manifest\.label"):
        manifest.add_labelled(labels(a="dog", b="dog"), "seeds", labelled_by=None)
    with pytest.raises(AlreadyAcquiredError):
        manifest.add_labelled(labels(a="cat"), "other", labelled_by=None)


def test_labelled_is_the_same_table_whatever_order_it_came_in(tmp_path):
    tables = []
    for name, order in (("one", "abc"), ("two", "cba")):
        manifest = Manifest(str(tmp_path / name))
        for id in order:
            manifest.acquire(batch(id), f"round {id}")
        manifest.label(labels(**dict.fromkeys(order, "cat")))
        tables.append(manifest.labelled().select(["id", "round", "label", "status"]))
    assert tables[0] == tables[1]


def test_time_travel_reads_keep_to_their_version_and_cannot_write(manifest):
    at_start = manifest.at(-1)
    manifest.acquire(batch("a"), "r")
    version = manifest.version
    then = manifest.at(version)
    manifest.label(labels(a="cat"))
    assert (at_start.version, at_start.rows().num_rows) == (-1, 0)
    assert (then.version, then.labelled().num_rows, len(then.ids())) == (version, 0, 1)
    assert [event["change"] for event in then.history()] == ["acquire", None]
    assert manifest.labelled().num_rows == 1
    for write in (
        lambda: then.acquire(batch("b"), "s"),
        lambda: then.label(labels(a="dog"), overwrite=True),
        lambda: at_start.add_labelled(labels(b="cat"), "s", labelled_by=None),
    ):
        with pytest.raises(ManifestError, match="read-only"):
            write()


@pytest.mark.parametrize("version", [-2, 0, 99])
def test_a_version_that_never_was_is_refused(manifest, version):
    with pytest.raises(ManifestError, match=f"no version {version}; it has versions -1 to -1"):
        manifest.at(version)


def test_history_tells_each_change_newest_first(manifest):
    manifest.acquire(batch("a", "b"), "first")
    manifest.acquire(batch("c"), "second")
    manifest.label(labels(a="cat"))
    manifest.label(labels(b="cat", c="dog"))
    events = manifest.history()
    assert [(e["version"], e["change"], e["round"], e["rows"]) for e in events] == [
        (4, "label", None, 2),
        (3, "label", "first", 1),
        (2, "acquire", "second", 1),
        (1, "acquire", "first", 2),
        (0, None, None, None),
    ]
    assert all(event["timestamp"].tzinfo is UTC for event in events)
    assert events[0]["operation"] == "MERGE"


def test_another_instance_sees_every_change_at_once(manifest):
    other = Manifest(manifest.uri)
    manifest.acquire(batch("a"), "r")
    assert other.ids().to_pylist() == ["a"]
    other.label(labels(a="cat"))
    assert manifest.labelled().num_rows == 1


def test_the_table_opens_in_other_readers(manifest):
    manifest.acquire(batch("a", "b"), "r")
    manifest.label(labels(a="cat"))
    table = DeltaTable(manifest.uri)
    assert table.to_pyarrow_table().sort_by("id").cast(MANIFEST) == manifest.rows()
    files = ds.dataset(table.file_uris(), format="parquet")
    assert sorted(files.to_table()["id"].to_pylist()) == ["a", "b"]


def test_a_delta_table_of_something_else_is_no_manifest(tmp_path):
    DeltaTable.create(str(tmp_path), pa.schema([("x", pa.int32())]))
    with pytest.raises(ManifestError, match="not a manifest: it lacks acquired_at, "):
        Manifest(str(tmp_path)).ids()


def test_a_damaged_log_and_places_that_cannot_be_opened_are_storage_errors(manifest, tmp_path):
    manifest.acquire(batch("a"), "r")
    for entry in (tmp_path / "manifest" / "_delta_log").glob("*1.json"):
        entry.write_text("{")
    (tmp_path / "file").write_text("")
    for uri in (manifest.uri, "nowhere://bucket/manifest", str(tmp_path / "file")):
        with pytest.raises(StorageError, match="cannot be read") as caught:
            Manifest(uri).ids()
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
    with pytest.raises(StorageError, match="must not contain %"):
        Manifest(str(tmp_path / "a%20b"))


def test_files_lost_under_the_table_are_a_storage_error(manifest, tmp_path):
    manifest.acquire(batch("a"), "r")
    for file in (tmp_path / "manifest").glob("*.parquet"):
        file.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        manifest.rows()


def _acquire_and_label(uri, name, start, results):
    """Acquire what other processes also want, top up as a round would, and label in between."""
    manifest = Manifest(uri)
    start.wait()
    for number in range(3):
        wanted = [f"{number}-{i}" for i in range(6)][:: -1 if name == "b" else 1]
        while wanted:
            try:
                manifest.acquire(batch(*wanted[:3]), f"{name}{number}")
                break
            except AlreadyAcquiredError as error:
                wanted = [id for id in wanted if id not in error.ids]
        results.put((f"{name}{number}", wanted[:3]))
        manifest.label(labels(**{f"seed{name}{number}": name}))


@pytest.mark.timeout(120)
def test_processes_that_commit_at_once_lose_nothing_and_double_nothing(manifest):
    manifest.acquire(batch(*(f"seed{name}{number}" for name in "abc" for number in range(3))), "s")
    context = multiprocessing.get_context("forkserver")  # imports once, where "spawn" would thrice
    context.set_forkserver_preload(["baal_ray.manifest.table", "pandas", "pytest"])
    start, results = context.Barrier(3), context.Queue()
    processes = [
        context.Process(target=_acquire_and_label, args=(manifest.uri, name, start, results))
        for name in "abc"
    ]
    for process in processes:
        process.start()
    promised = dict(results.get(timeout=60) for _ in range(9))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    acquired = manifest.rows(status="acquired")
    assert Counter(acquired["id"].to_pylist()) == {
        f"{n}-{i}": 1 for n in range(3) for i in range(6)
    }
    for round_id, ids in promised.items():
        assert sorted(manifest.rows(round_id=round_id)["id"].to_pylist()) == sorted(ids)
    expected = {f"seed{name}{number}": name for name in "abc" for number in range(3)}
    assert column(manifest.labelled(), "label") == expected


def test_two_first_writers_at_once_both_land(tmp_path):
    # Threads race to create the table, several times. Delta Lake releases the GIL.
    for attempt in range(3):
        uri = str(tmp_path / str(attempt))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda id, uri=uri: Manifest(uri).acquire(batch(id), id), "abcd"))
        assert sorted(Manifest(uri).ids().to_pylist()) == list("abcd")


def test_a_change_is_checked_again_when_another_came_first(manifest, monkeypatch):
    # The other commits between our reading of the table and our merge, as late as possible.
    manifest.acquire(batch("a"), "first")
    other, merge = Manifest(manifest.uri), VersionedTable.merge

    def merge_late(self, *args):
        monkeypatch.setattr(VersionedTable, "merge", merge)
        other.acquire(batch("b"), "other")
        return merge(self, *args)

    monkeypatch.setattr(VersionedTable, "merge", merge_late)
    with pytest.raises(AlreadyAcquiredError):
        manifest.acquire(batch("b", "c"), "second")
    monkeypatch.setattr(VersionedTable, "merge", merge_late)
    other = type("Other", (), {"acquire": lambda *_: manifest.label(labels(a="cat"))})()
    assert manifest.acquire(batch("c"), "second") == 1
    assert column(manifest.rows(), "status") == {"a": "labelled", "b": "acquired", "c": "acquired"}


def test_a_table_that_another_created_and_filled_is_looked_at_again(manifest, monkeypatch):
    create = VersionedTable.create

    def create_and_lose(self):
        monkeypatch.setattr(VersionedTable, "create", create)
        create(self)
        Manifest(self.uri).acquire(batch("a"), "other")

    monkeypatch.setattr(VersionedTable, "create", create_and_lose)
    with pytest.raises(AlreadyAcquiredError):
        manifest.acquire(batch("a", "b"), "r")


def test_a_change_gives_up_after_bounded_tries(manifest, monkeypatch):
    monkeypatch.setattr("baal_ray.manifest.commits._LONGEST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(VersionedTable, "merge", lambda *_: False)
    with pytest.raises(ManifestError, match="16 times in a row; nothing was written"):
        manifest.acquire(batch("a"), "r")


@pytest.mark.timeout(60)
def test_on_an_object_store_the_environment_is_enough(bucket, tmp_path):
    manifest = Manifest(f"{bucket}/{tmp_path.name}/work space/manifest")
    assert manifest.version == -1
    assert manifest.acquire(batch("a", "b/c", score=[0.5, 0.25]), "r") == 2
    assert manifest.label(labels(a="cat")) == 1
    with pytest.raises(AlreadyAcquiredError):
        manifest.acquire(batch("a"), "s")
    assert column(manifest.rows(), "label") == {"a": "cat", "b/c": None}
    assert manifest.at(1).labelled().num_rows == 0
    with pytest.raises(StorageError, match="NoSuchBucket"):
        Manifest("s3://nowhere/manifest").ids()
