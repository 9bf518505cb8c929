import threading

import pytest

from baal_ray.storage.read_ahead import read_ahead


def test_contents_come_in_order_however_many_files_there_are():
    for count in (0, 1, 3, 4, 5, 20):
        assert list(read_ahead(str, range(count))) == [str(i) for i in range(count)]


def test_four_files_are_read_at_once_and_no_more():
    together = threading.Barrier(4, timeout=20)
    lock, now, most = threading.Lock(), 0, 0

    def read(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait()
        with lock:
            now -= 1
        return number

    assert list(read_ahead(read, range(8))) == list(range(8))
    assert most == 4


def test_a_fault_comes_in_its_turn_and_nothing_is_read_after_it():
    begun = []

    def read(number: int) -> int:
        begun.append(number)
        if number == 2:
            raise ValueError("torn")
        return number

    got = []
    with pytest.raises(ValueError, match="torn"):
        got.extend(read_ahead(read, range(100)))
    contents = read_ahead(read, range(100, 200))
    assert next(contents) == 100
    contents.close()
    assert len([number for number in begun if number < 100]) <= 6
    assert len([number for number in begun if number >= 100]) <= 4
