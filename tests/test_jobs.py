import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from baal_ray.config import RoundConfig

JOBS = Path(__file__).parents[1] / "jobs"
EXAMPLE = RoundConfig.from_yaml(str(JOBS / "nightly.yaml"))


def settings(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every setting by its full name, and whether the file gives it."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, name in section.model_fields_set


def test_nightly_yaml_shows_every_setting():
    # The file is the documentation of the configuration.
    assert [name for name, given in settings(EXAMPLE) if not given] == []


def test_nightly_yaml_shows_defaults_but_for_what_has_none():
    bare = {
        "workspace": EXAMPLE.workspace,
        "classes": EXAMPLE.classes,
        "pool": {"uri": EXAMPLE.pool.uri},
        "selection": {"k": EXAMPLE.selection.k},
    }
    assert RoundConfig.from_dict(bare) == EXAMPLE


def test_every_setting_of_nightly_yaml_is_explained():
    # A comment stands above each setting, or above the first of a few neighbours.
    lines = (JOBS / "nightly.yaml").read_text().splitlines()
    silent = 0
    for line in lines:
        silent = 0 if line.lstrip().startswith("#") else silent + bool(line.strip())
        assert silent <= 3, f"{line.strip()} has no comment near it"


@pytest.mark.parametrize("page", sorted(JOBS.glob("*.py")), ids=lambda page: page.name)
def test_job_is_a_flat_page_of_public_names(page: Path):
    # Users copy it. So it has at most forty lines, and no name of ours that begins with `_`.
    source = page.read_text()
    assert len(source.splitlines()) <= 40
    imported = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert not [name for name in imported if "._" in name]
