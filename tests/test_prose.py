"""A floor under the prose: the habits that make it hard to read do not come back.

CONTRIBUTING.md has the rules for writers. This finds only the worst.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from documentation import PAGES, ROOT

# A first line that begins with one of these is no sentence, and no noun phrase with its noun.
_BEGINNINGS = {"Of", "What", "Whom", "How", "That", "So"}
_PHRASES = ("anew", "is told", "are told", "so many", "so much", "were to", "the rather")
# Words may be on two lines, the second of which may begin a line of a comment. "So much that" is
# plain English.
_HABIT = re.compile(
    r"\b({})\b(?!\s+that)".format("|".join(_PHRASES).replace(" ", r"\s+(?:#:?\s+)?")),
    re.IGNORECASE,
)


def faults(text: str, *, is_code: bool) -> Iterator[str]:
    """The habits in a text, each with its line."""
    for habit in _HABIT.finditer(text):
        line = text.count("\n", 0, habit.start()) + 1
        yield f"{line}: {' '.join(habit[0].split())!r}"
    if not is_code:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            if re.match(r"\w*", first)[0] in _BEGINNINGS:  # type: ignore[index]
                yield f"{getattr(node, 'lineno', 1)}: begins with {first.split()[0]!r}"


FILES = [
    *PAGES,
    *sorted((ROOT / "docs").rglob("*.py")),
    *sorted((ROOT / "baal_ray").rglob("*.py")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_none_of_the_worst_habits(path: Path) -> None:
    assert list(faults(path.read_text(), is_code=path.suffix == ".py")) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('"""Of the round."""', "1: begins with 'Of'"),
        ('def f():\n    """What it came to."""', "1: begins with 'What'"),
        ('class A:\n    """So, a thing."""', "1: begins with 'So,'"),
        ('"""Rank images.\n\nThey are ranked anew."""', "3: 'anew'"),
        ("x = 1\n# Images at once, so\n# many as fit.", "2: 'so # many'"),
        ("raise ValueError('all of it is told at once')", "1: 'is told'"),
    ],
)
def test_a_habit_is_found(text: str, fault: str) -> None:
    assert list(faults(text, is_code=True)) == [fault]


@pytest.mark.parametrize(
    "text",
    ['"""Office hours."""', '"""Howard\'s method."""', "# They were too many.", "# So much that."],
)
def test_what_only_looks_like_a_habit_passes(text: str) -> None:
    assert list(faults(text, is_code=True)) == []
