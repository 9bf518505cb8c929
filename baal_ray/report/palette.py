"""The colours of a page in light and in dark mode, which colour-blind readers can distinguish.

The series are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), darkened or lightened
until lines have a contrast of 3 to their background, and text has one of 4.5.
"""

import re
from dataclasses import dataclass

# Placeholder colours for matplotlib, which nobody would choose. The page puts in its own.
_DRAWN = "#0101{:02x}"


@dataclass(frozen=True)
class Colour:
    """A colour that depends on whether the reader's screen is light or dark.

    Attributes:
        name: Name of its CSS variable, without the dashes.
        drawn: Placeholder that matplotlib draws with. `themed` replaces it with the variable.
        light: Colour on a light page, #rrggbb.
        dark: Colour on a dark page, #rrggbb.
    """

    name: str
    drawn: str
    light: str
    dark: str


_VALUES = {
    "page": ("#ffffff", "#15181c"),
    "panel": ("#f4f5f7", "#1f242a"),
    "ink": ("#1b1f24", "#e8eaed"),
    "muted": ("#5a636e", "#a3adb8"),
    "grid": ("#dfe3e8", "#343b44"),
    "warning": ("#8a4b00", "#ffb866"),
    "warning-panel": ("#fff4e5", "#33260f"),
    "link": ("#005a9c", "#7cc4ff"),
    "blue": ("#0072b2", "#56b4e9"),
    "vermilion": ("#c65100", "#ff9447"),
    "green": ("#00805c", "#35c79a"),
    "pink": ("#b0568a", "#e79ac6"),
    "yellow": ("#8f7000", "#f0e442"),
    "purple": ("#6a4fb3", "#b7a1f5"),
}
COLOURS = {
    name: Colour(name, _DRAWN.format(number), light, dark)
    for number, (name, (light, dark)) in enumerate(_VALUES.items())
}
PAGE, INK, MUTED, GRID = (COLOURS[name] for name in ("page", "ink", "muted", "grid"))
SERIES = tuple(
    COLOURS[name] for name in ("blue", "vermilion", "green", "pink", "yellow", "purple")
)
_BY_DRAWN = {colour.drawn: colour.name for colour in COLOURS.values()}


def themed(svg: str) -> str:
    """Return a drawing whose colours are the page's variables."""
    return re.sub(
        "#0101[0-9a-f]{2}", lambda found: f"var(--{_BY_DRAWN.get(found[0], 'ink')})", svg
    )


def variables(theme: str) -> str:
    """Return the CSS variables of the "light" or the "dark" page."""
    return " ".join(f"--{name}: {getattr(c, theme)};" for name, c in COLOURS.items())
