"""Tests in which each request to a store fails, or is done and its answer lost, one after another.

The state is then the old one or the new one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.errors import AlreadyAcquiredError, StorageError
from baal_ray.manifest import Manifest
from faulty_s3 import Fault, FaultyS3

FAULTS: list[Fault] = ["refused", "lost", "gone"]


@pytest.fixture
def root(bucket: str, tmp_path: Path) -> str:
    return f"{bucket}/{tmp_path.name}"


def batch(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids)})


def each_request(server: FaultyS3, act: Callable[[str], object]) -> Iterator[str]:
    """Call a function again and again, with each fault one request later each time.

    Each call gets a name of its own, such as "lost-3", which is yielded after the call.
    """
    for fault in FAULTS:
        for number in count():
            server.set_fault(fault, number)
            with suppress(StorageError):
                act(f"{fault}-{number}")
            asked = len(server.requests)
            server.set_fault(None)
            yield f"{fault}-{number}"
            if asked <= number:
                break


def test_a_commit_is_whole_and_made_once(faulty_s3: FaultyS3, root: str) -> None:
    # There is no table at first, so the requests include its creation.
    def manifest(name: str) -> Manifest:
        # With options of its own it does not try the store first, by 50 requests more.
        return Manifest(f"{root}/{name}", storage_options={})

    def acquire(name: str) -> None:
        manifest(name).acquire(batch("a", "b"), "r")

    for name in each_request(faulty_s3, acquire):
        assert manifest(name).ids().to_pylist() in ([], ["a", "b"])
        acquire(name)
        assert sorted(manifest(name).ids().to_pylist()) == ["a", "b"]
        assert manifest(name).version == 1  # 0 is the empty table
    assert int(name.removeprefix("gone-")) > 10


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_a_commit_that_the_client_tries_again_is_made_once(
    faulty_s3: FaultyS3, root: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Delta Lake repeats a lost commit, and finds a version there: its own.
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    manifest = Manifest(f"{root}/manifest")
    manifest.acquire(batch("a"), "before")
    commit = f"PUT /bucket/{root.rsplit('/', 1)[1]}/manifest/_delta_log/"
    faulty_s3.set_fault(fault, 0, commit)
    manifest.acquire(batch("b"), "r")
    assert sum(request.startswith(commit) for request in faulty_s3.requests) == 2
    assert sorted(manifest.ids().to_pylist()) == ["a", "b"]
    assert manifest.version == 2


def test_a_file_is_created_once(faulty_s3: FaultyS3, root: str) -> None:
    won: dict[str, bool] = {}

    def create(name: str) -> None:
        won[name] = storage.create_if_absent(f"{root}/{name}", b"ours")

    for name in each_request(faulty_s3, create):
        there = storage.exists(f"{root}/{name}")
        assert there or not won.get(name)
        assert storage.create_if_absent(f"{root}/{name}", b"theirs") == (not there)
        assert storage.read(f"{root}/{name}") == (b"ours" if there else b"theirs")
    assert won[name]


def test_a_file_is_replaced_whole_or_not_at_all(faulty_s3: FaultyS3, root: str) -> None:
    uri, old, new = f"{root}/file", b"old" * 100_000, b"new" * 100_000
    storage.publish(uri, old)
    for _ in each_request(faulty_s3, lambda _: storage.publish(uri, new)):
        assert storage.read(uri) in (old, new)
        storage.publish(uri, new)
        assert storage.read(uri) == new
        storage.publish(uri, old)


def test_what_is_read_and_listed_is_whole_or_an_error(faulty_s3: FaultyS3, root: str) -> None:
    names = [f"{root}/{name}" for name in ("a/1", "a/2", "b")]
    for name in names:
        storage.publish(name, name.encode() * 1000)
    seen: list[object] = []
    reads: list[tuple[Callable[[], object], object]] = [
        (lambda: storage.read(names[0]), names[0].encode() * 1000),
        (lambda: storage.list_files(root), names),
        (lambda: sorted(storage.walk_files(root)), ["a/1", "a/2", "b"]),
        (lambda: storage.exists(names[0]), True),
    ]
    for read, whole in reads:
        for _ in each_request(faulty_s3, lambda _, read=read: seen.append(read())):
            assert all(what == whole for what in seen)
        assert seen
        seen.clear()


def test_a_file_that_may_be_deleted_already_is_deleted(faulty_s3: FaultyS3, root: str) -> None:
    uri = f"{root}/file"
    storage.publish(uri, b"x")
    for _ in each_request(faulty_s3, lambda _: storage.delete(uri)):
        storage.delete(uri)
        assert not storage.exists(uri)
        storage.publish(uri, b"x")


def test_of_many_who_create_a_file_one_wins(faulty_s3: FaultyS3, root: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        won = list(
            threads.map(
                lambda number: storage.create_if_absent(f"{root}/plan", bytes([number])), range(8)
            )
        )
    assert won.count(True) == 1
    assert storage.read(f"{root}/plan") == bytes([won.index(True)])


def test_rounds_that_commit_at_once_all_land(faulty_s3: FaultyS3, root: str) -> None:
    # All rounds want the same images. Each takes the next best if another comes first.
    def acquire(name: str) -> list[str]:
        wanted = [f"image-{i}" for i in range(12)]
        while True:
            try:
                Manifest(f"{root}/manifest").acquire(batch(*wanted[:3]), name)
            except AlreadyAcquiredError as error:
                wanted = [id for id in wanted if id not in error.ids]
            else:
                return wanted[:3]

    with ThreadPoolExecutor(4) as threads:
        picks = list(threads.map(acquire, "abcd"))
    ids = Manifest(f"{root}/manifest").ids().to_pylist()
    assert sorted(ids) == sorted(id for pick in picks for id in pick)
    assert len(set(ids)) == 12
