import pytest

from baal_ray import storage
from baal_ray.errors import CorruptFileError, LostFileError, StorageError


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:500] + bytes([data[500] ^ 128]) + data[501:],
    ],
    ids=["truncated", "empty", "longer", "first bit", "a middle bit"],
)
def test_a_file_that_is_not_what_its_name_says_is_recognised(tmp_path, spoil):
    data = bytes(range(256)) * 4
    uri = storage.publish_by_sha256(str(tmp_path), data, ".parquet")
    assert storage.publish_by_sha256(str(tmp_path), data, ".parquet") == uri
    assert storage.read_verified(uri) == data
    (tmp_path / uri.rsplit("/", 1)[1]).write_bytes(spoil(data))
    with pytest.raises(CorruptFileError, match=r"is damaged: its sha256 is \w+, not the one in"):
        storage.read_verified(uri)


def test_a_name_without_a_sha256_is_not_taken_on_trust(tmp_path):
    sha256 = storage.sha256(b"x")
    for name in ("x.parquet", f"copy-{sha256}.parquet", f"{sha256}.parquet.bak", sha256[1:]):
        uri = str(tmp_path / name)
        storage.publish(uri, b"x")
        assert not storage.is_named_by_sha256(uri)
        with pytest.raises(CorruptFileError, match="is not named by a sha256"):
            storage.read_verified(uri)
    assert storage.is_named_by_sha256(f"/a/{sha256}")
    assert storage.is_named_by_sha256(f"s3://a/{sha256}.parquet")


def test_a_file_that_is_missing_is_told_from_a_store_that_does_not_answer(tmp_path, root):
    uri = storage.join(root, f"{'0' * 64}.parquet")
    reads = [storage.read_verified, storage.read_needed, storage.read_json]
    for read in [*reads, lambda uri: storage.read_range(uri, 0, 8)]:
        with pytest.raises(LostFileError, match=rf"{uri} is missing"):
            read(uri)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError) as refused:
        storage.read_needed(str(tmp_path / "folder"))
    assert not isinstance(refused.value, LostFileError)


def test_a_part_of_a_file_is_read(root):
    uri = storage.join(root, "a.bin")
    storage.publish(uri, bytes(range(100)))
    assert storage.read_range(uri, 8, 12) == bytes([8, 9, 10, 11])
    assert storage.read_range(uri, 98, 200) == bytes([98, 99])
