"""SVG drawings for a page. They scale with the page, and take its colours and its font."""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from baal_ray import storage
from baal_ray.report.palette import GRID, INK, MUTED, PAGE, SERIES, Colour, themed

Values = npt.NDArray[np.float64]

# Size of a drawing in inches. A phone shows 1/72 of an inch as about one pixel, so text has the
# same size there as here.
_WIDTH, _HEIGHT = 4.9, 3.0

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "baal_ray",
    "text.parse_math": False,  # a class may be called $
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlecolor": MUTED.drawn,
    "axes.labelcolor": MUTED.drawn,
    "text.color": INK.drawn,
    "axes.edgecolor": MUTED.drawn,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID.drawn,
    "xtick.color": MUTED.drawn,
    "ytick.color": MUTED.drawn,
    "ytick.major.size": 0,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "lines.linewidth": 2,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0,
}
# Metadata that keeps an SVG's date and tool out of the page.
_NOTHING = dict.fromkeys(["Date", "Creator", "Format", "Type"])
_LONGEST_NAME = 26
_STEPS = (1, 2, 2.5, 5, 10)
_DASHES = ("solid", (0, (5, 2)), (0, (1, 1.2)))


@dataclass(frozen=True)
class Line:
    """One line of a drawing, with its uncertainty.

    Attributes:
        name: Name in the legend. It is empty for a line that is the only one.
        x: Horizontal positions, ascending.
        y: Heights, NaN where unknown.
        low: Lower edge of a band around the line.
        high: Upper edge of the band.
        each: Thin lines besides the line, such as one per seed.
        number: Index of the series' colour, or None for the grey of what others are compared
            with.
    """

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None
    each: Sequence[tuple[Values, Values]] = ()
    number: int | None = 0

    @property
    def colour(self) -> Colour:
        """The colour of the line."""
        return MUTED if self.number is None else SERIES[self.number % len(SERIES)]


def lines(
    series: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    level: Sequence[float] = (),
    zero: bool = False,
) -> str:
    """Draw lines with bands over a common axis.

    Args:
        series: Lines to draw.
        x_label: Label below the horizontal axis.
        y_label: Label above the vertical axis.
        level: Heights of horizontal lines to compare the lines with.
        zero: Whether the vertical axis begins at 0.
    """

    def draw(axes: Axes) -> None:
        for height in level:
            axes.axhline(height, color=MUTED.drawn, linewidth=1, linestyle=(0, (1, 2)))
        for line in series:
            _draw_line(axes, line)
        if zero:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        _labels(axes, x_label, y_label)
        if len(series) > 1:
            _legend(axes, [line.name for line in series])

    return _drawn(draw)


def histogram(
    edges: Values,
    pool: npt.NDArray[np.int64],
    batch: npt.NDArray[np.int64],
    cut: float | None,
    x_label: str,
) -> str:
    """Draw histograms of the scores of all images and of the picks, on a logarithmic scale.

    Args:
        edges: Edges of the bins.
        pool: Number of images in each bin.
        batch: Number of picks in each bin.
        cut: Score where the batch begins, or None if there is no such score.
        x_label: Name of the score.
    """

    def draw(axes: Axes) -> None:
        for counts, colour, name in ((pool, MUTED, "scored"), (batch, SERIES[1], "acquired")):
            alpha = 0.45 if colour is MUTED else 0.9
            axes.stairs(
                counts, edges, baseline=0.5, fill=True, color=colour.drawn, alpha=alpha, label=name
            )
        axes.set_yscale("log")
        axes.set_ylim(0.5, max(2.0, float(pool.max(initial=1)) * 1.6))
        axes.grid(visible=False, axis="x")
        axes.minorticks_off()
        if cut is not None:
            axes.axvline(cut, color=INK.drawn, linewidth=1.2, linestyle=_DASHES[1], label="cut")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _labels(axes, x_label, "images (logarithmic scale)")
        _legend(axes, ["scored", "acquired", "cut"])

    return _drawn(draw)


def shares(names: Sequence[str], pool: Values, batch: Values) -> str:
    """Draw the share that each class has of the pool and of the batch, from 0 to 1."""
    rows = np.arange(len(names))

    def draw(axes: Axes) -> None:
        axes.barh(rows - 0.2, pool, 0.36, color=MUTED.drawn, alpha=0.6, label="pool")
        axes.barh(rows + 0.2, batch, 0.36, color=SERIES[1].drawn, label="acquired")
        axes.set_yticks(rows, [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        _labels(axes, "share of images", "")
        _legend(axes, ["pool", "acquired"])

    return _drawn(draw, 1.1 + 0.34 * len(names))


def intervals(
    names: Sequence[str],
    centre: Values,
    low: Values,
    high: Values,
    numbers: Sequence[int],
    x_label: str,
    *,
    level: float,
) -> str:
    """Draw values with their intervals, one below the other, against a vertical line.

    Args:
        names: Names of the values.
        centre: Values to draw.
        low: Lower ends of the intervals, NaN where there is none.
        high: Upper ends of the intervals, NaN where there is none.
        numbers: Index of the series' colour for each value.
        x_label: Label of the values.
        level: Value where the vertical line stands.
    """

    def draw(axes: Axes) -> None:
        axes.axvline(level, color=INK.drawn, linewidth=1.2, linestyle=_DASHES[1])
        for row, number in enumerate(numbers):
            colour = SERIES[number % len(SERIES)].drawn
            axes.plot([low[row], high[row]], [row, row], color=colour, linewidth=3, alpha=0.45)
            axes.plot([centre[row]], [row], "o", color=colour, markersize=7)
        axes.set_yticks(range(len(names)), [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=_STEPS))
        _labels(axes, x_label, "")

    return _drawn(draw, 0.9 + 0.3 * len(names))


def stacked(names: Sequence[str], parts: Sequence[tuple[str, Values]], x_label: str) -> str:
    """Draw horizontal bars, each of which consists of parts."""
    rows = np.arange(len(names))

    def draw(axes: Axes) -> None:
        left = np.zeros(len(names))
        for number, (name, values) in enumerate(parts):
            colour = SERIES[number % len(SERIES)].drawn
            axes.barh(rows, values, 0.62, left=left, color=colour, label=name)
            left = left + values
        axes.set_yticks(rows, [_short(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=_STEPS))
        _labels(axes, x_label, "")
        _legend(axes, [name for name, _ in parts])

    return _drawn(draw, 1.1 + 0.3 * len(names))


def crowd(groups: Sequence[tuple[str, Values]], chosen: tuple[str, Values]) -> str:
    """Draw chosen points among a crowd, on a map whose axes mean nothing.

    Args:
        groups: Groups of the crowd. Each has its own colour if there are enough colours.
        chosen: Points that stand out.
    """
    coloured = len(groups) <= len(SERIES)

    def draw(axes: Axes) -> None:
        for number, (name, points_N_2) in enumerate(groups):
            colour = SERIES[number] if coloured else MUTED
            label = name if coloured else "pool" if number == 0 else None
            _dots(axes, points_N_2, "o", 14, colour, 0.5, label)
        _dots(axes, chosen[1], "D", 26, INK, 0.95, chosen[0])
        names = [name for name, _ in groups] if coloured else ["pool"]
        _map(axes, [*names, chosen[0]])

    return _drawn(draw, _WIDTH * 0.9)


def _dots(
    axes: Axes,
    points_N_2: Values,
    marker: str,
    size: int,
    colour: Colour,
    alpha: float,
    name: str | None,
) -> None:
    axes.scatter(
        points_N_2[:, 0],
        points_N_2[:, 1],
        s=size,
        marker=marker,
        color=colour.drawn,
        alpha=alpha,
        edgecolors=PAGE.drawn,
        linewidths=0.4,
        label=name,
    )


def _map(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    _legend(axes, names)


def _draw_line(axes: Axes, line: Line) -> None:
    colour = line.colour.drawn
    # A colour that is used again gets other dashes.
    style = _DASHES[1] if line.number is None else _DASHES[line.number // len(SERIES) % 3]
    for x, y in line.each:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.4, linestyle=style)
    if line.low is not None and line.high is not None:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    marker = "o" if len(line.x) <= 12 else ""
    name = _short(line.name)
    axes.plot(
        line.x, line.y, color=colour, linestyle=style, marker=marker, markersize=4, label=name
    )


def _labels(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", pad=8)  # a vertical label costs width on a phone


def _legend(axes: Axes, names: Sequence[str]) -> None:
    longest = max(len(_short(name)) for name in names)
    columns = max(1, min(len(names), 44 // (longest + 6)))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.legend(loc="outside upper left", ncols=columns, columnspacing=1.2)


def _short(name: str) -> str:
    """Return a name that is short enough to fit beside an axis."""
    line = " ".join(name.split())
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def _drawn(draw: Callable[[Axes], None], height: float = _HEIGHT) -> str:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # matplotlib warns of glyphs that its own font lacks. The browser has other fonts.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure.subplots())
        buffer = StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NOTHING)
    return _inline(buffer.getvalue())


def _inline(file: str) -> str:
    """Return the part of an SVG file that belongs in a page, with ids unlike other drawings'."""
    svg = file[file.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL
    )
    svg = re.sub(r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'(<text style="[^"]*?)font-family:[^;"]*;', r"\1", svg)
    svg = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    svg = re.sub(r'(<g clip-path="[^"]*")>((?: <use [^>]*/>)+)', _once_for_all, svg)
    prefix = f"d{storage.sha256(svg.encode())[:8]}"
    svg = re.sub(r'(id="|href="#|url\(#)(?=[mp][0-9a-f]{10})', rf"\g<1>{prefix}", svg)
    return re.sub(r'style="[^"]*"', lambda style: themed(style[0]), svg).strip()


def _once_for_all(group: re.Match[str]) -> str:
    """Give the points of a scatter plot one style, because thousands of them make a page large."""
    points = re.sub(r' ([xy])="(-?\d+\.\d)\d*"', r' \1="\2"', group[2])
    styles = set(re.findall(r' style="[^"]*"', points))
    if len(styles) != 1:
        return f"{group[1]}>{points}"
    (style,) = styles
    return f"{group[1]}{style}>{points.replace(style, '')}"
