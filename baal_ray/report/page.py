"""One self-contained HTML page: its own style, drawings and pictures, and no script.

What is of type `Html` is markup; every `str` is text, and escaped where it enters.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NewType

from baal_ray.report.palette import variables

Html = NewType("Html", str)

# Should a name ever slip through unescaped, the browser still runs and fetches nothing.
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
    """A part of a page under a heading of its own.

    Attributes:
        title: the heading.
        parts: what stands below it.
    """

    title: str
    parts: Sequence[Html]


@dataclass(frozen=True)
class Card:
    """An image of a contact sheet, and what is written below it.

    Attributes:
        image: encoded as PNG or JPEG; None where it cannot be shown.
        alt: what it is, for those who do not see it.
        lines: text, the first in bold; a line that begins with "≠" is set off as wrong.
        id: of the image.
        tiny: whether it has so few pixels that they are better seen as squares.
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
    """The page.

    Args:
        title: its heading.
        lead: what everybody should read, before the facts.
        facts: names and values.
        sections: of which those without parts are left out.
        footer: versions and the like.
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
    """A paragraph; `style` is "lead", "muted" or nothing."""
    marked = f' class="{style}"' if style else ""
    return Html(f"<p{marked}>{escape(text)}</p>")


def bullets(items: Iterable[str]) -> Html:
    """A list of sentences."""
    return Html("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def points(items: Iterable[tuple[str, str]]) -> Html:
    """A list of headlines, each with more to it."""
    told = (f"<li><strong>{escape(a)}.</strong> {escape(b)}</li>" for a, b in items)
    return Html(f"<ul>{''.join(told)}</ul>")


def warning(title: str, items: Sequence[str]) -> Html:
    """A box to be wary of, or nothing where there are no items."""
    if not items:
        return Html("")
    return Html(f'<div class="warning"><h2>{escape(title)}</h2>{bullets(items)}</div>')


def figures(drawings: Iterable[Html]) -> Html:
    """Drawings side by side, one below the other on a phone."""
    return Html(f'<div class="figures">{"".join(drawings)}</div>')


def figure(sentence: str, svg: str, note: str = "") -> Html:
    """A drawing under a sentence that says what it shows.

    Args:
        sentence: in plain words; it is what screen readers read, too.
        svg: from `baal_ray.report.plots`.
        note: small print below it.
    """
    labelled = svg.replace("<svg", f'<svg role="img" aria-label="{escape(sentence)}"', 1)
    small = f"<small>{escape(note)}</small>" if note else ""
    return Html(f"<figure><figcaption>{escape(sentence)}</figcaption>{labelled}{small}</figure>")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> Html:
    """A table that scrolls by itself where it is too wide; columns in `text` are not numbers."""
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
    """What only few want to see, behind a line to open it by."""
    return Html(f"<details><summary>{escape(summary)}</summary>{''.join(parts)}</details>")


def contact_sheet(cards: Iterable[Card]) -> Html:
    """Small pictures in a grid."""
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
