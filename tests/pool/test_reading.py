"""Tests of how a read task fetches images."""

import threading
import time

import pytest

from baal_ray import storage
from baal_ray.pool.reading import _Fetcher
from baal_ray.pool.roots import Roots


@pytest.mark.parametrize(("wait", "by_threads"), [(0.0, False), (0.005, True)])
def test_images_that_are_waited_for_are_fetched_by_threads(
    wait, by_threads, tmp_path, monkeypatch
):
    readers = set()
    read = storage.read_at_most

    def waits(place, limit):
        readers.add(threading.get_ident())
        time.sleep(wait)
        return read(place, limit)

    monkeypatch.setattr(storage, "read_at_most", waits)
    names = [str(number).encode() for number in range(40)]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name)
    fetch = _Fetcher(Roots(str(tmp_path)))
    assert list(fetch(names)) == [(name, None) for name in names]
    readers.discard(threading.get_ident())
    assert bool(readers) == by_threads
    *_, (image, error) = fetch([b"0", None, b"40"])
    assert image is None
    assert "40" in error


def test_names_are_found_as_they_are_written_and_as_spark_encodes_them(tmp_path):
    for name in ("a b.jpg", "100%25.jpg", "plain.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    fetch = _Fetcher(Roots(str(tmp_path)))
    uris = ["a%20b.jpg", f"file:{tmp_path}/a%20b.jpg", f"file://{tmp_path}/a b.jpg", "100%25.jpg"]
    assert [image for image, _ in fetch(map(str.encode, uris))] == [b"a b.jpg"] * 3 + [
        b"100%25.jpg"
    ]
    ((image, error),) = fetch([b"%2e%2e/outside%20.jpg"])
    assert image is None
    assert "cannot be read" in error
