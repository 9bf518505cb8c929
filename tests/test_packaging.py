import importlib
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
    """A URL would tie everyone to one machine's package index."""
    assert "://" not in LOCK


def loaded_after(code: str) -> set[str]:
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(printed.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_ray():
    assert not {"torch", "ray", "pyarrow"} & loaded_after("import baal_ray; dir(baal_ray)")


def test_public_names_are_sorted_and_each_has_a_home():
    assert baal_ray.__all__ == sorted(baal_ray.__all__)
    assert set(baal_ray.__all__) == {*baal_ray._HOME, "__version__"}


@pytest.mark.parametrize(("name", "home"), baal_ray._HOME.items())
def test_public_name_loads_from_its_home(name: str, home: str):
    module = importlib.import_module(f"baal_ray.{home}")
    assert getattr(baal_ray, name) is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'heuristics'"):
        _ = baal_ray.heuristics
