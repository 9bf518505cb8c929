"""Hooks of mkdocs, which mkdocs.yml names.

Pages link to files outside docs/ by their path, so that the links work in the repository. In the
site they lead to the repository's address. The site itself must not fetch anything from another
host, which is checked after it is built.
"""

import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REPOSITORY = _PROJECT["urls"]["Repository"]

# Relations of <link> that only name a page. For others, such as stylesheet, it is fetched.
_NAMES_A_PAGE = {"canonical", "next", "prev", "author", "license", "alternate"}

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_config(config: Any, **_: Any) -> None:
    """Show the repository in the footer of every page."""
    link = {"icon": "fontawesome/brands/git-alt", "link": REPOSITORY, "name": "Repository"}
    config.extra["social"] = [link]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Make links that leave docs/ lead to the repository."""
    return with_links_to_repository(markdown, DOCS / page.file.src_uri)


def with_links_to_repository(markdown: str, page: Path) -> str:
    """Replace the relative links of a page that leave docs/ by addresses in the repository.

    Args:
        markdown: Content of the page.
        page: Path of the page.

    Raises:
        PluginError: If a link leads to nothing.
    """

    def address(link: re.Match[str]) -> str:
        target = (page.parent / link[0]).resolve()
        if target.is_relative_to(DOCS):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.relative_to(ROOT)} links to {link[0]}, which does not exist")
        kind = "tree" if target.is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{target.relative_to(ROOT).as_posix()}"

    return _LINK.sub(address, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that fetches anything from another host."""
    site = Path(config.site_dir)
    found = [
        f"{path.relative_to(site)} fetches {address}"
        for pattern, addresses in (("*.html", fetched_by_page), ("*.css", fetched_by_style))
        for path in sorted(site.rglob(pattern))
        for address in addresses(path.read_text())
        if urlsplit(address).netloc
    ]
    if found:
        raise PluginError("\n".join(["the site must fetch nothing from another host:", *found]))


def fetched_by_page(html: str) -> list[str]:
    """Return the addresses from which a browser loads what a page needs: not those of links."""
    page = _Fetches()
    page.feed(html)
    return page.addresses


def fetched_by_style(css: str) -> Iterator[str]:
    """Yield the addresses from which a browser loads fonts, images and further styles."""
    for quoted in re.findall(r"url\(\s*([^)]+?)\s*\)|@import\s+([\"'][^\"']+)", css):
        yield "".join(quoted).strip("\"'")


class _Fetches(HTMLParser):
    """The addresses in the attributes and styles of a page that a browser fetches by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the addresses in the attributes of a tag."""
        given = {name: value for name, value in attrs if value}
        self._in_style = tag == "style"
        self.addresses += [given[name] for name in ("src", "data", "poster") if name in given]
        if tag == "link" and given.get("rel") not in _NAMES_A_PAGE:
            self.addresses += [given[name] for name in ("href",) if name in given]
        if tag in ("use", "image"):
            self.addresses += [given[name] for name in ("href", "xlink:href") if name in given]
        for candidate in given.get("srcset", "").split(","):
            self.addresses += candidate.split()[:1]
        self.addresses += fetched_by_style(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Note the addresses in a style sheet that the page holds."""
        if self._in_style:
            self.addresses += fetched_by_style(data)
            self._in_style = False
