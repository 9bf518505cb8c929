"""Tests that the habits which make prose hard to read do not come back.

CONTRIBUTING.md has the rules for writers. These tests find only the worst.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from documentation import PAGES, ROOT

# A first line that begins with one of these is no sentence, and no noun phrase with its noun.
# A class is a noun phrase, and a function an imperative, so neither is in the third person.
_BEGINNING = re.compile(
    r"(?:Also|As|At|Because|Behind|Beside|Between|Beyond|By|Else|Even|For|From|How|In|It|Its|Of|On|"
    r"Over|So|Such|That|Their|They|Until|Up|What|When|Where|Who|Whom|Whose|Why|With|Without|Counts|"
    r"Decodes|Draws|Gives|Holds|Keeps|Knows|Makes|Returns|Runs|Says|Sets|Takes|Writes)\b"
)
_RESULT = re.compile(r"; (?:gives|prints|returns)\b")
_PHRASES = ("anew", "is told", "are told", "so many", "so much", "were to", "the rather")
# Words may be on two lines, the second of which may begin a line of a comment. "So much that" is
# plain English.
_HABIT = re.compile(
    r"\b({})\b(?!\s+that)".format("|".join(_PHRASES).replace(" ", r"\s+(?:#:?\s+)?")),
    re.IGNORECASE,
)


def faults(text: str, *, is_code: bool) -> Iterator[str]:
    """Yield the habits in a text, each with its line."""
    for habit in _HABIT.finditer(text):
        line = text.count("\n", 0, habit.start()) + 1
        yield f"{line}: {' '.join(habit[0].split())!r}"
    if not is_code:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            line = getattr(node, "lineno", 1)
            whether = first.startswith("Whether ") and not _is_property(node)
            if whether or _BEGINNING.match(first):
                yield f"{line}: begins with {first.split()[0]!r}"
            for habit in _RESULT.findall(first):
                yield f"{line}: {habit!r}"


def _is_property(node: ast.AST) -> bool:
    decorators = getattr(node, "decorator_list", [])
    return any("property" in ast.unparse(decorator) for decorator in decorators)


FOLDERS = ("baal_ray", "benchmarks", "docs", "jobs", "tests")
# This file names the habits that it looks for.
FILES = [
    *PAGES,
    *(
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
    ),
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
        ('class A:\n    """Holds a model."""', "1: begins with 'Holds'"),
        ('"""Even if it falls again."""', "1: begins with 'Even'"),
        ('def f():\n    """Whether it is there."""', "1: begins with 'Whether'"),
        ('def f():\n    """Run; gives its seconds."""', "1: '; gives'"),
        ('"""Rank images.\n\nThey are ranked anew."""', "3: 'anew'"),
        ("x = 1\n# Images at once, so\n# many as fit.", "2: 'so # many'"),
        ("raise ValueError('all of it is told at once')", "1: 'is told'"),
    ],
)
def test_a_habit_is_found(text: str, fault: str) -> None:
    assert list(faults(text, is_code=True)) == [fault]


@pytest.mark.parametrize(
    "text",
    [
        '"""Office hours."""',
        '"""Howard\'s method."""',
        "# They were too many.",
        "# So much that.",
        'class A:\n    @property\n    def f(self):\n        """Whether it is there."""',
    ],
)
def test_what_only_looks_like_a_habit_passes(text: str) -> None:
    assert list(faults(text, is_code=True)) == []
