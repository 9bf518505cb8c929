import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import baal_ray

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = [
    Requirement(line)
    for line in LOCK.splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = {
    canonicalize_name(requirement.name): requirement
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
    if (requirement := Requirement(text)).name != PROJECT["name"]
}


@pytest.mark.parametrize("requirement", DIRECT.values(), ids=str)
def test_lock_pins_every_direct_dependency_to_a_version_it_allows(requirement: Requirement):
    pins = [pin for pin in PINS if canonicalize_name(pin.name) == requirement.name.lower()]
    assert pins, f"{requirement.name} is not in requirements.lock; run `make lock`"
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert specifier.version in requirement.specifier


def test_lock_names_no_url():
    # A URL would tie everyone to one machine's package index.
    assert "://" not in LOCK


def loaded_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(printed.stdout.split())


SLOW_TO_LOAD = {"torch", "torchvision", "ray", "pyarrow"}

# The large libraries that each module may load when it is imported. A driver or a command line
# that only looks things up must not wait for torch. A Ray task that reads or writes must not load
# it in every process. A task also imports the packages above its function, so re-exports count.
MAY_LOAD = {
    "baal_ray": set(),
    "baal_ray.cli": set(),
    "baal_ray.config": set(),
    "baal_ray.storage": set(),
    "baal_ray.workspace": set(),
    "baal_ray.manifest": {"pyarrow"},
    "baal_ray.manifest.labels": {"pyarrow"},
    "baal_ray.selection": {"pyarrow"},
    "baal_ray.report.status": {"pyarrow"},
    "baal_ray.operations.pruning": {"pyarrow"},
    "baal_ray.operations.forgetting": {"pyarrow"},
    "baal_ray.pool.decoding_task": {"ray", "pyarrow"},
    "baal_ray.storage.datasink": {"ray", "pyarrow"},
    "baal_ray.cluster": {"ray", "pyarrow"},
    "baal_ray.pool": {"ray", "pyarrow"},
    "baal_ray.pool.listing": {"ray", "pyarrow"},
    "baal_ray.operations.submission": {"ray", "pyarrow"},
}


@pytest.mark.parametrize(("module", "may_load"), MAY_LOAD.items())
def test_importing_loads_no_more_than_it_may(module: str, may_load: set[str]):
    found = SLOW_TO_LOAD & loaded_after(f"import {module}; dir({module})")
    assert found <= may_load


def test_the_changelog_has_a_heading_for_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert baal_ray.__version__ in headings


def test_public_names_are_sorted_and_each_has_a_home():
    assert baal_ray.__all__ == sorted(baal_ray.__all__)
    assert set(baal_ray.__all__) == {*baal_ray._HOME, "__version__"}


@pytest.mark.parametrize(("name", "home"), baal_ray._HOME.items())
def test_public_name_loads_from_its_home(name: str, home: str):
    module = importlib.import_module(f"baal_ray.{home}")
    assert getattr(baal_ray, name) is getattr(module, name)


# Packages that export names, beside `baal_ray` itself: names that users import, and functions that
# are called everywhere, by name or as `storage.read`.
EXPORTING = ["config", "driver", "manifest", "pool", "posterior", "scoring", "selection"]
EXPORTING += ["storage", "workspace"]
FOLDERS = sorted(path.parent for path in (ROOT / "baal_ray").rglob("__init__.py"))[1:]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_says_its_duty_and_exports_sorted_names_or_none(folder: Path):
    name = ".".join(folder.relative_to(ROOT).parts)
    module = importlib.import_module(name)
    assert module.__doc__
    exported = getattr(module, "__all__", [])
    assert exported == sorted(exported)
    assert bool(exported) == (name.removeprefix("baal_ray.") in EXPORTING)
    for each in exported:
        assert getattr(module, each)


def test_every_test_file_is_named_after_the_module_it_tests():
    # A module's tests are thus easy to find.
    tests = ROOT / "tests"
    about_the_repository = {"test_docs", "test_jobs", "test_packaging", "test_prose"}
    about_the_repository |= {"test_raycronjob", "test_results"}
    strays = [
        path.relative_to(tests)
        for path in tests.rglob("test_*.py")
        if path.parent.name != "integration"
        and path.stem not in about_the_repository
        and not (
            ROOT / "baal_ray" / path.parent.relative_to(tests) / path.name.removeprefix("test_")
        ).exists()
    ]
    assert not strays


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'heuristics'"):
        _ = baal_ray.heuristics
