"""The pages for people, and the blocks of code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = ["README", "CODE_OF_CONDUCT", "CONTRIBUTING", "SECURITY"]
PAGES = [ROOT / f"{name}.md" for name in TOP] + sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def python_blocks(*, with_ray: bool) -> dict[str, str]:
    """Return the Python blocks of all pages, either with or without Ray, by page and number."""
    return {
        f"{page.stem}-{number}": block
        for page in PAGES
        for number, block in enumerate(blocks(page.read_text(), "python"), start=1)
        if ("import ray" in block) == with_ray
    }
