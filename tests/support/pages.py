"""The rules that every page must keep, checked in its markup."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "br"}
_ALLOWED_SCHEMES = ("data:", "#")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            if "url(" in data or "@import" in data:
                self.faults.append("the style fetches something")
        else:
            self.text.append(data)

    def _look_at(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "link", "form", "base"):
            self.faults.append(f"there is a <{tag}>")
        for name, value in attrs:
            if name.startswith("on"):
                self.faults.append(f"<{tag} {name}> runs something")
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                if not (value or "").startswith(_ALLOWED_SCHEMES):
                    self.faults.append(f"<{tag} {name}={value!r}> leads outside")
                if (value or "").startswith("#"):
                    self.links.append((value or "")[1:])
        if tag == "img" and not dict(attrs).get("alt"):
            self.faults.append("an image has no alternative text")


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader


def faults_of(page: str) -> list[str]:
    """List why a page is not well-formed, not self-contained or not free of scripts."""
    reader = _read(page)
    faults = [*reader.faults, *(f"<{tag}> is never closed" for tag in reader.open)]
    doubled = {name for name in reader.ids if reader.ids.count(name) > 1}
    lost = set(reader.links) - set(reader.ids)
    faults += [f"id {name!r} is given twice" for name in sorted(doubled)]
    faults += [f"#{name} leads nowhere" for name in sorted(lost)]
    if "http" in page.replace('http-equiv="', ""):
        faults.append("it names an address")
    return faults


def text_of(page: str) -> str:
    """Return the text that a page shows."""
    return " ".join(" ".join(_read(page).text).split())
