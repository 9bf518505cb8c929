import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baal_ray.ids import IdSet, hash_ids

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), max_size=8))


@given(TEXTS, TEXTS, TEXTS)
def test_a_set_of_hashes_answers_as_a_set_of_strings(held, more, asked):
    ids = IdSet.of(held) | IdSet.of(more)
    assert len(ids) == len({*held, *more})
    assert ids.contains(asked).tolist() == [i in {*held, *more} for i in asked]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("é", "e\u0301"),  # NFC and NFD: files of both names can stand side by side
        ("a", "a\0"),  # NumPy and C would end the string there
        ("a", "a "),
        ("a", "A"),
        ("7", "07"),
    ],
)
def test_ids_are_compared_byte_for_byte(one, two):
    assert IdSet.of([one]).contains([one, two]).tolist() == [True, False]


@pytest.mark.parametrize(
    "ids",
    [
        ["b", "a"],
        pa.array(["b", "a"]),
        pa.chunked_array([["b"], ["a"]]),
        pa.array(["b", "a"]).dictionary_encode(),
        pa.array(["b", "a"], pa.large_string()),
        pa.array(["b", "a"], pa.string_view()),
    ],
    ids=lambda ids: str(getattr(ids, "type", "list")),
)
def test_hashes_follow_the_ids_whatever_holds_them(ids):
    assert hash_ids(ids).tolist() == [hash_ids([i])[0] for i in "ba"]


def test_a_hash_never_changes_between_versions():
    # The hash is hashlib.blake2b(b"a", digest_size=16). Picks and held-out images depend on it.
    assert hash_ids(["a"]).tobytes().hex() == "27c35e6e9373877f29e562464e46497e"


def test_hashes_that_end_in_zeros_keep_their_width():
    # NumPy's S16 drops trailing zero bytes when an element is taken out. Sets must not.
    hashes = np.frombuffer(b"\x01" + b"\0" * 15 + b"\x01\x01" + b"\0" * 14, dtype="S16")
    assert len(np.unique(hashes)) == 2
    assert len(IdSet(np.unique(hashes)) | IdSet.of([])) == 2


def test_each_seed_is_an_order_of_its_own():
    ids = [str(i) for i in range(1000)]
    orders = [np.argsort(hash_ids(ids, seed)) for seed in (0, 0, 1)]
    assert (orders[0] == orders[1]).all()
    ranks = [np.argsort(order) for order in orders]
    # Independent orders: |ρ| is under 4/√N in all but 6 of 100,000 pairs.
    assert abs(np.corrcoef(ranks[0], ranks[2])[0, 1]) < 4 / 1000**0.5
    assert (hash_ids(ids) != hash_ids(ids, 0)).all()


def test_no_ids_are_a_set_too():
    assert len(IdSet.of([])) == 0
    assert IdSet.of([]).contains(["a"]).tolist() == [False]
    assert IdSet.of(["a"]).contains([]).tolist() == []
    assert len(IdSet.of(pa.array([], pa.string())) | IdSet.of(["a"])) == 1
