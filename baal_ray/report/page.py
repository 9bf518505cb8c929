"""A self-contained HTML page with its own style, drawings and pictures, and without scripts.

Values of type `Html` are markup. Every `str` is text, and is escaped where it enters the page.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NewType

from baal_ray.report.palette import variables

Html = NewType("Html", str)

# If a name ever slips through unescaped, the browser still runs and fetches nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'"

_STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; text-wrap: balance; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--grid); }
h3, figcaption { font-size: 1rem; font-weight: 600; line-height: 1.35; margin: 0 0 .4rem; }
p, ul { max-width: 44rem; margin: .5rem 0; }
ul { padding-left: 1.2rem; }
li { margin: .3rem 0; }
a { color: var(--link); }
nav { font-size: .9rem; margin-top: 1rem; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
nav a { padding: .2rem 0; }
.lead { font-size: 1.1rem; }
.muted, small { color: var(--muted); font-size: .875rem; }
.warning { background: var(--warning-panel); border-left: 4px solid var(--warning);
  border-radius: 0 6px 6px 0; padding: .6rem 1rem; margin: 1rem 0; }
.warning h2 { margin: 0; padding: 0; border: 0; font-size: 1.05rem; color: var(--warning); }
dl { display: grid; gap: .75rem 1.25rem; margin: 1.25rem 0; padding: .9rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); background: var(--panel);
  border-radius: 8px; }
dt { color: var(--muted); font-size: .8rem; }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.figures { display: grid; gap: 1.75rem 2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; max-width: 30rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  width: max-content; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid var(--grid);
  vertical-align: top; }
th { color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0;
  max-width: min(20rem, 60vw); }
th.text { text-align: left; }
td.text { text-align: left; max-width: min(30rem, 75vw); }
.sheet { display: grid; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none; max-width: none;
  grid-template-columns: repeat(auto-fill, minmax(5.6rem, 1fr)); }
.sheet li { margin: 0; min-width: 0; font-size: .75rem; line-height: 1.35; }
.sheet img, .sheet .gone { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--panel); border-radius: 6px; margin-bottom: .2rem; }
.sheet .gone { display: grid; place-items: center; color: var(--muted); text-align: center;
  padding: .3rem; }
.sheet img.tiny { image-rendering: pixelated; }
.sheet b, .sheet span { display: block; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.sheet .wrong { color: var(--warning); }
.sheet .id { color: var(--muted); }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); padding: .3rem 0; }
footer { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
@media print { nav { display: none; } figure, .sheet li { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page with its own heading.

    Attributes:
        title: Heading of the section.
        parts: Content below the heading.
    """

    title: str
    parts: Sequence[Html]


@dataclass(frozen=True)
class Card:
    """An image of a contact sheet, with the text below it.

    Attributes:
        image: Image encoded as PNG or JPEG, or None if it cannot be shown.
        alt: Description of the image for readers who do not see it.
        lines: Lines of text, the first in bold. A line that begins with "≠" is marked as wrong.
        id: Id of the image.
        tiny: Whether the image has so few pixels that they are better shown as squares.
    """

    image: bytes | None
    alt: str
    lines: Sequence[str]
    id: str
    tiny: bool = False


def render(
    title: str,
    lead: Sequence[Html],
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    footer: str,
) -> str:
    """Return the page.

    Args:
        title: Heading of the page.
        lead: Content that everybody should read, before the facts.
        facts: Names and values.
        sections: Sections of the page. Those without parts are left out.
        footer: Small print, such as versions.
    """
    shown = [section for section in sections if section.parts]
    links = "".join(
        f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(shown)
    )
    body = "".join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>{"".join(section.parts)}'
        "</section>"
        for number, section in enumerate(shown)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" '
        f'content="no-referrer"><title>{escape(title)}</title><style>{_style()}</style></head>'
        f"<body><header><h1>{escape(title)}</h1>{''.join(lead)}{_facts(facts)}"
        f"<nav>{links}</nav></header><main>{body}</main>"
        f"<footer>{paragraph(footer, 'muted')}</footer></body></html>\n"
    )


def paragraph(text: str, style: str = "") -> Html:
    """Return a paragraph. `style` is "lead", "muted" or empty."""
    marked = f' class="{style}"' if style else ""
    return Html(f"<p{marked}>{escape(text)}</p>")


def bullets(items: Iterable[str]) -> Html:
    """Return a list of sentences."""
    return Html("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def points(items: Iterable[tuple[str, str]]) -> Html:
    """Return a list of headlines, each followed by its details."""
    told = (f"<li><strong>{escape(a)}.</strong> {escape(b)}</li>" for a, b in items)
    return Html(f"<ul>{''.join(told)}</ul>")


def warning(title: str, items: Sequence[str]) -> Html:
    """Return a warning box, or nothing if there are no items."""
    if not items:
        return Html("")
    return Html(f'<div class="warning"><h2>{escape(title)}</h2>{bullets(items)}</div>')


def figures(drawings: Iterable[Html]) -> Html:
    """Put drawings side by side, or one below the other on a phone."""
    return Html(f'<div class="figures">{"".join(drawings)}</div>')


def figure(sentence: str, svg: str, note: str = "") -> Html:
    """Return a drawing under a sentence that says what it shows.

    Args:
        sentence: Sentence in plain words. Screen readers read it, too.
        svg: Drawing from `baal_ray.report.plots`.
        note: Small print below the drawing.
    """
    labelled = svg.replace("<svg", f'<svg role="img" aria-label="{escape(sentence)}"', 1)
    small = f"<small>{escape(note)}</small>" if note else ""
    return Html(f"<figure><figcaption>{escape(sentence)}</figcaption>{labelled}{small}</figure>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> Html:
    """Return a table that scrolls if it is too wide. Columns in `text` do not hold numbers."""
    heads = "".join(
        f'<th scope="col"{" class=text" if column in text else ""}>{escape(name)}</th>'
        for column, name in enumerate(header)
    )
    body = "".join(f"<tr>{_cells(row, text)}</tr>" for row in rows)
    return Html(
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table><thead><tr>'
        f"{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(row: Sequence[str], text: Sequence[int]) -> str:
    return "".join(
        f'<td class="text">{escape(cell)}</td>' if column in text else f"<td>{escape(cell)}</td>"
        for column, cell in enumerate(row)
    )


def folded(summary: str, parts: Iterable[Html]) -> Html:
    """Return content that only few want to see, hidden until its summary is clicked."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def contact_sheet(cards: Iterable[Card]) -> Html:
    """Return small pictures in a grid."""
    return Html(f'<ol class="sheet">{"".join(map(_card, cards))}</ol>')


def _card(card: Card) -> str:
    if card.image is None:
        picture = f'<div class="gone">{escape(card.alt)}</div>'
    else:
        kind = "png" if card.image.startswith(b"\x89PNG") else "jpeg"
        data = base64.b64encode(card.image).decode()
        tiny = ' class="tiny"' if card.tiny else ""
        source = f"data:image/{kind};base64,{data}"
        picture = f'<img{tiny} alt="{escape(card.alt)}" src="{source}">'
    bold, *rest = card.lines
    lines = "".join(
        f"<span{' class=wrong' if line.startswith('≠') else ''}>{escape(line)}</span>"
        for line in rest
    )
    name = escape(card.id)
    named = f'<span class="id" title="{name}">{name}</span>'
    return f"<li>{picture}<b>{escape(bold)}</b>{lines}{named}</li>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    if not facts:
        return ""
    pairs = (f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in facts)
    return f"<dl>{''.join(pairs)}</dl>"


def _style() -> str:
    return _STYLE.replace("LIGHT", variables("light")).replace("DARK", variables("dark"))
