import inspect
import pickle
import re

import pytest

from baal_ray import errors
from baal_ray.errors import (
    AlreadyAcquiredError,
    BaalRayError,
    ConfigError,
    LostFileError,
    _FaultsError,
    printable,
)

CLASSES = {
    name: kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BaalRayError) and not name.startswith("_")
}


def drawn_parents():
    """Return class → parent, as in the tree in the module's docstring."""
    parents, branch = {}, {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"^(    [│ ]*(?:[├└]── )?)([A-Z]\w+Error)\b", line):
            depth = len(found[1])
            branch[depth] = found[2]
            parents[found[2]] = branch.get(depth - 4)
    return parents


def real_parent(kind):
    return next(p.__name__ for p in kind.__mro__[1:] if not p.__name__.startswith("_"))


def test_the_tree_at_the_top_is_the_tree():
    drawn = drawn_parents()
    assert drawn.pop("BaalRayError") is None
    assert drawn == {n: real_parent(k) for n, k in CLASSES.items() if k is not BaalRayError}


@pytest.mark.parametrize("kind", CLASSES.values())
def test_errors_survive_pickling_as_they_cross_processes(kind):
    arguments = (["a", "b"],)
    if issubclass(kind, _FaultsError):
        arguments = ("round.yaml", ["k is 0", "by is 'x'"])
    if issubclass(kind, LostFileError):
        arguments = ("ws/scores/1.parquet", "is missing")
    error = kind(*arguments)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_messages_hold_every_fault_and_a_few_examples():
    assert str(ConfigError("f.yaml", ["a", "b"])) == "f.yaml:\n  - a\n  - b"
    told = str(AlreadyAcquiredError([f"id{i}" for i in range(100)]))
    assert told.startswith("100 ids of this batch are already in the manifest ('id0', 'id1'")
    assert len(told) < 200


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb\x9bc\x07", r"a\x1b[31mb\x9bc\x07"),
        ("a\rb\tc\x00", r"a\rb\tc\x00"),
        ("\u202eevil\u2066\u200b", r"\u202eevil\u2066\u200b"),
        ("a\n2026-11-28 INFO forged\n  - b", "a\n  2026-11-28 INFO forged\n  - b"),
        ("a\u2028b\x85c\udc80", r"a\u2028b\x85c\udc80"),
        ("日本 🦊 é\u3000\xa0", "日本 🦊 é\u3000\xa0"),
    ],
)
def test_text_for_a_terminal_has_no_character_that_it_acts_on(text, shown):
    assert printable(text) == shown
