import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from baal_ray import storage
from baal_ray.errors import StorageError


def test_what_is_published_is_read_listed_and_deleted(root):
    uri = storage.join(root, "a", "b.bin")
    assert not storage.exists(uri)
    assert storage.list_files(root) == []
    storage.publish(uri, b"one")
    storage.publish(uri, b"two")
    assert storage.read(uri) == b"two"
    assert storage.exists(uri)
    assert storage.exists(storage.join(root, "a"))
    assert storage.list_files(root) == [uri]
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)
    assert storage.list_files(root) == []


def test_files_are_listed_without_what_is_hidden_or_unfinished(root):
    shown = ["1.parquet", "b=é/2.parquet", "a/deep/er/x y.parquet"]
    hidden = ["_SUCCESS.parquet", ".1.parquet.0f.tmp", "_temporary/0/a.parquet", ".git/x.parquet"]
    for name in [*shown, *hidden, "notes.txt"]:
        storage.publish(storage.join(root, name), b"x")
    storage.publish(f"{root}-other/3.parquet", b"x")
    found = storage.list_files(root, ".parquet")
    assert found == sorted(storage.join(root, name) for name in shown)
    assert [storage.read(uri) for uri in found] == [b"x"] * 3
    assert storage.list_files(f"{root}/", ".parquet") == found
    assert storage.list_files(storage.join(root, "1.parquet")) == []


def test_walking_gives_names_below_folder_by_folder(root):
    for name in ["b/2.jpg", "_DSC1.jpg", "._DSC1.jpg", ".trash/3.jpg", "日本/é.jpg", "b/c/1.jpg"]:
        storage.publish(storage.join(root, name), b"x")
    storage.publish(f"{root}-other/3.jpg", b"x")
    names = list(storage.walk_files(f"{root}/"))
    assert sorted(names) == ["_DSC1.jpg", "b/2.jpg", "b/c/1.jpg", "日本/é.jpg"]
    assert names[0] == "_DSC1.jpg"
    assert list(storage.walk_files(storage.join(root, "none"))) == []


def test_of_many_who_create_a_file_one_wins(root):
    uri = storage.join(root, "plan.json")
    writers = 16 if "memory://" not in uri else 1  # fsspec's memory loses races
    together = threading.Barrier(writers)

    def create(number):
        together.wait()
        return storage.create_if_absent(uri, str(number).encode() * 10_000)

    with ThreadPoolExecutor(writers) as threads:
        won = list(threads.map(create, range(writers)))
    assert won.count(True) == 1
    assert storage.read(uri) == str(won.index(True)).encode() * 10_000
    assert not storage.create_if_absent(uri, b"late")
    assert storage.read(uri) != b"late"
    assert storage.list_files(root) == [uri]


def test_readers_see_a_whole_file_or_none(tmp_path):
    uri = str(tmp_path / "round.json")
    whole = {bytes([n]) * 2_000_000 for n in range(4)}
    storage.publish(uri, min(whole))
    done = threading.Event()
    seen = set()

    def keep_reading():
        while not done.is_set():
            seen.add(storage.read(uri))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for data in [*whole] * 5:
        storage.publish(uri, data)
    done.set()
    reader.join()
    assert seen <= whole
    assert os.listdir(tmp_path) == ["round.json"]


def test_published_files_are_readable_by_others_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        storage.publish(str(tmp_path / "a"), b"")
        storage.create_if_absent(str(tmp_path / "b"), b"")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in "ab"}
    assert modes == {0o644}


def test_names_that_fsspec_would_read_otherwise(tmp_path):
    for name in ("a::b", "zip::c", "a%20b", "a?b", "a*b", "a b"):
        uri = str(tmp_path / name)
        storage.publish(uri, name.encode())
        assert storage.read(uri) == name.encode()
    assert len(os.listdir(tmp_path)) == 6


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/a::http://127.0.0.1:9/b", "simplecache::s3://bucket/a", "file::memory://a"],
)
def test_file_systems_are_not_chained(uri):
    for act in (storage.read, storage.exists, storage.list_files):
        with pytest.raises(StorageError, match="'::' would chain file systems"):
            act(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "/nowhere/at/all",
        "nothing://known",
        "memory://nowhere",
        "s3://",
        "http://127.0.0.1:9/refused",
        "https://",
        "/",
    ],
)
@pytest.mark.usefixtures("bucket")
def test_whatever_a_store_raises_is_told_as_ours(uri):
    with pytest.raises(StorageError, match="cannot be"):
        storage.read(uri)


def test_what_cannot_be_written_is_told_as_ours(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    uri = str(tmp_path / "file" / "below")
    for act in (storage.publish, storage.create_if_absent):
        with pytest.raises(StorageError, match="File exists"):
            act(uri, b"x")
    with pytest.raises(StorageError, match="Is a directory"):
        storage.publish(str(tmp_path), b"x")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read anything")
def test_a_folder_that_may_not_be_read_is_no_empty_folder(tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(StorageError, match="cannot be listed"):
        list(storage.walk_files(str(tmp_path)))


def test_what_others_write_is_seen_though_it_was_absent_before(bucket):
    folder, uri = storage.join(bucket, "shared"), storage.join(bucket, "shared", "2.json")
    client = boto3.client("s3")  # another process, for all that our file system knows
    client.put_object(Bucket="bucket", Key="shared/1.json", Body=b"1")
    fs, _ = storage.filesystem(bucket)
    assert len(fs.ls("bucket/shared")) == 1  # s3fs remembers this
    client.put_object(Bucket="bucket", Key="shared/2.json", Body=b"2")
    assert storage.exists(uri)
    assert len(storage.list_files(folder)) == 2
    assert len(list(storage.walk_files(folder))) == 2


def test_pyarrow_reads_where_fsspec_writes(root):
    uri = storage.join(root, "x.bin")
    storage.publish(uri, b"0123456789")
    fs, path = storage.arrow_filesystem(uri)
    with fs.open_input_file(path) as file:
        assert file.read_at(3, 4) == b"456"


@pytest.mark.parametrize("name", ["ws[1]", "ws*", "ws?"])
def test_a_tree_is_deleted_by_its_name_not_by_a_pattern(root, name):
    for folder in (name, "ws1"):
        storage.publish(storage.join(root, folder, "a", "b"), b"x")
    storage.delete_tree(storage.join(root, name))
    assert list(storage.walk_files(root)) == ["ws1/a/b"]


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    precious = tmp_path / "elsewhere" / "precious"
    storage.publish(str(precious), b"x")
    (tmp_path / "tree").mkdir()
    for link in (tmp_path / "link", tmp_path / "tree" / "link"):
        link.symlink_to(precious.parent)
    (tmp_path / "tree" / "file").symlink_to(precious)
    storage.delete_tree(str(tmp_path / "link"))
    storage.delete_tree(str(tmp_path / "tree"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]
    assert precious.read_bytes() == b"x"


def test_what_names_a_tree_can_go_last(root):
    folder = storage.join(root, "tree")
    for name in ("a", "marker", "z", "below/a"):
        storage.publish(storage.join(folder, name), b"x")
    storage.delete_tree(folder, last=["marker"])
    assert list(storage.walk_files(root)) == []


def test_a_tree_that_is_gone_already_is_no_fault(root):
    storage.delete_tree(storage.join(root, "ws"))


def test_what_is_no_file_is_left_out_of_listings_and_told(tmp_path, caplog):
    pool, elsewhere = tmp_path / "pool", tmp_path / "elsewhere"
    for folder in (pool, elsewhere):
        folder.mkdir()
        (folder / "1.jpg").write_bytes(b"x")
    os.mkfifo(pool / "pipe.jpg")
    os.symlink(elsewhere, pool / "2025")
    os.symlink(elsewhere / "1.jpg", pool / "linked.jpg")
    for lists in (storage.walk_files, storage.list_files):
        assert [uri.rsplit("/", 1)[-1] for uri in lists(str(pool))] == ["1.jpg", "linked.jpg"]
        assert f"'{pool}/pipe.jpg': pipes, sockets or devices" in caplog.text
        assert f"'{pool}/2025': links to folders" in caplog.text
        caplog.clear()


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (storage.open_arrow, lambda uri: storage.read_at_most(uri, 10)):
        with pytest.raises(StorageError, match="pipe, socket or device"):
            read(str(tmp_path / "pipe"))


def test_a_file_larger_than_the_limit_is_not_read(root):
    uri = storage.join(root, "a.jpg")
    storage.publish(uri, b"12345")
    assert storage.read_at_most(uri, 5) == b"12345"
    with pytest.raises(StorageError, match=r"has more than 4 bytes, .*make it smaller"):
        storage.read_at_most(uri, 4)


def test_a_sparse_file_of_terabytes_is_not_read(tmp_path):
    os.truncate(os.open(tmp_path / "a.jpg", os.O_CREAT | os.O_WRONLY), 1 << 40)
    with pytest.raises(StorageError, match="has more than 100 bytes"):
        storage.read_at_most(str(tmp_path / "a.jpg"), 100)


def test_a_faulty_folder_deep_below_is_told(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    scandir = os.scandir

    def failing(path):
        if str(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StorageError, match=r"cannot be listed: .*Permission denied"):
        list(storage.walk_files(str(tmp_path)))


def test_keys_that_name_no_single_object_are_told(bucket, caplog):
    client = boto3.client("s3")
    for key in ("odd/a//b.jpg", "odd/../x.jpg", "odd/d/./y.jpg", "odd/d/", "odd/d/1.jpg"):
        client.put_object(Bucket="bucket", Key=key, Body=b"x")
    assert list(storage.walk_files(f"{bucket}/odd")) == ["d/1.jpg"]
    assert "3 left out, such as" in caplog.text
    for path in ("bucket/odd/a/", "bucket/odd/..", "bucket/odd/d/."):
        assert repr(path) in caplog.text


def test_an_empty_object_is_told_to_be_empty(bucket):
    storage.publish(f"{bucket}/empty.jpg", b"")
    with pytest.raises(StorageError, match="The file is empty"):
        storage.read_at_most(f"{bucket}/empty.jpg", 10)
