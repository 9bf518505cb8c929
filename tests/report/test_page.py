import pytest

from baal_ray.report import page
from baal_ray.report.page import Card, Section
from baal_ray.report.palette import COLOURS
from pages import faults_of, text_of

HOSTILE = "</style><script>alert('x')</script><img src=http://evil onerror=alert(1)>\"'&amp;"
PNG = b"\x89PNG\r\n\x1a\n"


def test_whatever_a_name_says_is_text():
    parts = [
        page.paragraph(HOSTILE),
        page.bullets([HOSTILE]),
        page.points([(HOSTILE, HOSTILE)]),
        page.warning(HOSTILE, [HOSTILE]),
        page.figures([page.figure(HOSTILE, "<svg></svg>", HOSTILE)]),
        page.table([HOSTILE], [[HOSTILE]], text=[0]),
        page.folded(HOSTILE, [page.paragraph(HOSTILE)]),
        page.contact_sheet(
            [Card(PNG, HOSTILE, [HOSTILE, HOSTILE], HOSTILE), Card(None, HOSTILE, ["1"], HOSTILE)]
        ),
    ]
    made = page.render(
        HOSTILE,
        [page.paragraph(HOSTILE)],
        [(HOSTILE, HOSTILE)],
        [Section(HOSTILE, parts)],
        HOSTILE,
    )
    text = text_of(made)
    assert faults_of(made.replace("http:", "")) == []
    assert "<script" not in made
    assert "<img src" not in made
    assert text.count(HOSTILE) >= 15


def test_a_section_with_nothing_in_it_is_left_out():
    made = page.render(
        "t", [], [], [Section("there", [page.paragraph("x")]), Section("no", [])], ""
    )
    assert "there" in text_of(made)
    assert "no" not in text_of(made).split()


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """Return the contrast as WCAG 2.2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("name", "on", "least"),
    [
        ("ink", "page", 7),
        ("ink", "panel", 7),
        ("ink", "warning-panel", 7),
        ("muted", "page", 4.5),
        ("muted", "panel", 4.5),
        ("link", "page", 4.5),
        ("warning", "warning-panel", 4.5),
        ("warning", "page", 4.5),
        *(
            (name, "page", 3)
            for name in ("blue", "vermilion", "green", "pink", "yellow", "purple")
        ),
    ],
)
def test_colours_are_told_from_their_background(theme, name, on, least):
    colour, background = (getattr(COLOURS[which], theme) for which in (name, on))
    assert _contrast(colour, background) >= least
