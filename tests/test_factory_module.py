"""Tests that a model's module is found beside the configuration."""

import subprocess
import sys
from importlib import import_module

import pytest

from baal_ray import factory_module
from baal_ray.factory_module import import_beside, worker_setup


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(factory_module, "_folders", [])
    return sys.path


def test_a_module_beside_the_configuration_is_importable(path, tmp_path):
    (tmp_path / "beside_me.py").write_text("answer = 42\n")
    import_beside(str(tmp_path / "round.yaml"), "beside_me:network")
    assert import_module("beside_me").answer == 42
    assert path[-1] == str(tmp_path)
    del path[-1]
    worker_setup()()
    assert path[-1] == str(tmp_path)


@pytest.mark.parametrize("factory", ["vgg16", "torchvision.models:vgg16", "not_there:f", ":f"])
def test_nothing_changes_for_other_factories(factory, path, tmp_path):
    before = list(path)
    (tmp_path / "torchvision.py").write_text("")
    (tmp_path / "vgg16.py").write_text("")
    import_beside(str(tmp_path / "round.yaml"), factory)
    assert path == before
    assert worker_setup() is None


def test_it_hides_no_module_of_python(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('this is not Python\\'s random')\n")
    (tmp_path / "beside_me.py").write_text("import random\n")
    code = (
        "from baal_ray.factory_module import import_beside\n"
        f"import_beside({str(tmp_path / 'round.yaml')!r}, 'beside_me:network')\n"
        "import beside_me\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
