import re

import numpy as np
import pytest

from baal_ray.report import plots
from baal_ray.report.palette import COLOURS
from baal_ray.report.plots import Line
from pages import faults_of, text_of

NAME = "<script>alert(1)</script> $\\frac$ 猫"
X = np.array([1.0, 2.0, 3.0])
COUNTS = np.array([5, 0, 1])

DRAWINGS = {
    "lines": plots.lines(
        [Line(NAME, X, X, X - 1, X + 1), Line("b", X, X, each=[(X, X)], number=None)],
        "labels",
        "accuracy",
        level=[2],
    ),
    "histogram": plots.histogram(np.arange(4.0), COUNTS, COUNTS, 1.5, NAME),
    "shares": plots.shares([NAME, "b"], X[:2] / 9, X[1:] / 9),
    "stacked": plots.stacked([NAME, "b"], [("fit", X[:2]), ("score", X[:2])], "seconds"),
    "crowd": plots.crowd([(NAME, np.eye(2)), ("dog", np.eye(2))], ("picks", np.eye(2))),
    "intervals": plots.intervals([NAME, "b"], X[:2], X[:2] - 1, X[:2] + 1, [0, 7], "x", level=1),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_stands_in_a_page_by_itself(name: str):
    svg = DRAWINGS[name]
    assert faults_of(svg) == []
    assert svg.startswith('<svg viewBox="0 0 ')
    assert "<script>alert(1)" in text_of(svg)


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_colour_is_the_pages(name: str):
    assert set(re.findall(r"#[0-9a-f]{6}\b", DRAWINGS[name])) <= {"#000000"}
    assert set(re.findall(r"var\(--([a-z-]+)\)", DRAWINGS[name])) <= set(COLOURS)


def test_two_drawings_share_no_names():
    one, other = (set(re.findall(r' id="([^"]+)"', DRAWINGS[name])) for name in ("lines", "crowd"))
    assert one
    assert not one & other


def test_what_is_not_known_is_not_drawn():
    nothing = np.full(3, np.nan)
    assert faults_of(plots.lines([Line("a", X, nothing)], "labels", "accuracy")) == []


def test_a_thousand_points_take_little_of_a_page():
    svg = plots.crowd(
        [("pool", np.random.default_rng(0).normal(size=(1000, 2)))], ("a", np.eye(2))
    )
    assert svg.count("<use") >= 1000
    assert len(svg) < 90_000
