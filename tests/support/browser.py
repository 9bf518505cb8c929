"""A real browser that looks at a page and lists its faults."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

# Debian's chromium-headless-shell is a third of chromium; `make browser` installs it.
_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")

PHONE, DESKTOP = (390, 844), (1280, 900)

# The page may run no script. The browser runs this one, which reads the layout.
_FIND_FAULTS = """() => {
  const faults = [];
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth)
    faults.push(`it scrolls sideways: ${root.scrollWidth} of ${window.innerWidth} pixels`);
  for (const image of document.images)
    if (!image.complete || image.naturalWidth === 0) faults.push(`not decoded: ${image.alt}`);
  for (const drawing of document.querySelectorAll('svg')) {
    const box = drawing.getBoundingClientRect();
    if (box.width < 250 || box.height < 50) faults.push(`a drawing of ${box.width} pixels`);
    for (const text of drawing.querySelectorAll('text')) {
      const size = text.getBoundingClientRect();
      if (size.height < 9) faults.push(`text of ${size.height} pixels: ${text.textContent}`);
      if (size.right > window.innerWidth || size.left < 0)
        faults.push(`text beyond the screen: ${text.textContent}`);
    }
  }
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = colour => {
    const [r, g, b] = channels(colour).slice(0, 3).map(value => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.textContent.trim()) continue;
    const element = node.parentElement, style = getComputedStyle(element);
    const ink = element.closest('svg') ? style.fill : style.color;
    const [low, high] = [luminance(ink), luminance(behind(element))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5)
      faults.push(`contrast ${contrast.toFixed(1)}: ${node.textContent.trim().slice(0, 40)}`);
  }
  return faults;
}"""


@contextmanager
def open_browser() -> Iterator[Any]:
    """Yield a browser without a window. Without a browser, the test is skipped."""
    found = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is on PATH; `make browser`")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        # Its sandbox needs rights that containers lack; the pages are ours.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


def look_at(
    browser: Any, page: Path, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> list[str]:
    """List what is wrong with a page on a screen of `size` pixels."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=False
    )
    tab, faults = context.new_page(), list[str]()
    tab.on("console", lambda message: faults.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: faults.append(f"error: {error}"))
    tab.on("request", lambda request: _note(faults, request.url, page))
    tab.goto(page.as_uri())
    faults += tab.evaluate(_FIND_FAULTS)
    dark = tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    if dark != (scheme == "dark"):
        faults.append(f"it is not {scheme}")
    context.close()
    return faults


def _note(faults: list[str], url: str, page: Path) -> None:
    if not url.startswith("data:") and url != page.as_uri():
        faults.append(f"it asks for {url}")
