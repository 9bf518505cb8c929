"""Tests of what a release uploads, built without a network and used outside the clone."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest

import baal_ray

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside the clone, as a user of the installed package does."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def build(kind: str, source: Path, to: Path) -> Path:
    """Build a wheel or an sdist without a network, and return its path."""
    done = run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", to, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = to.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_an_sdist_has_the_sources_and_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as sdist:
        sdist.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    for folder in ("baal_ray", "docs", "jobs", "tests"):
        ours = {path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts}
        theirs = set((source / folder).rglob("*"))
        assert {path.relative_to(ROOT) for path in ours if path.is_file()} == {
            path.relative_to(source) for path in theirs if path.is_file()
        }
    at_the_top = {
        "CHANGELOG.md",
        "Makefile",
        "cluster.yaml",
        "pyproject.toml",
        "requirements.lock",
    }
    assert at_the_top <= {path.name for path in source.iterdir()}
    assert not list(source.glob("benchmarks/experiments/*/"))
    assert build("wheel", source, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel, and the dependencies of this environment."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    done = run(
        *(sys.executable, "-m", "pip", "--python", home, "install", "--quiet", "--no-deps"),
        *("--no-index", "--disable-pip-version-check", wheel),
        cwd=home,
    )
    assert done.returncode == 0, done.stderr
    # They come after the wheel. The .pth files in these folders, such as that of an editable
    # install of baal_ray, are not followed.
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(folders)))
    return home


def test_an_installed_wheel_has_its_command(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "bin" / "baal-ray", "--version", cwd=tmp_path)
    assert done.stdout == f"baal-ray, version {baal_ray.__version__}\n", done.stderr


SCORING = """
import sys, baal_ray, torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
scores = baal_ray.MCDropout(model, samples=20).statistics(torch.randn(5, 8))
print(baal_ray.__file__, "ray" in sys.modules, *(scores["bald"] > 0).tolist())
"""


def test_an_installed_wheel_scores_without_ray(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "bin" / "python", "-c", SCORING, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file, *rest = done.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert rest == ["False", *["True"] * 5]


CALLS = """
import baal_ray

baal_ray.top_k("scores", k=10)
baal_ray.top_k("scores", k="ten")
"""


def test_an_installed_wheel_tells_type_checkers_its_types(installed: Path, tmp_path: Path) -> None:
    # Without `py.typed`, mypy would treat everything that is imported from it as `Any`.
    (tmp_path / "calls.py").write_text(CALLS)
    # Reading the types of torch and Ray takes long and adds nothing.
    skipped = "\n".join(
        f"[mypy-{name}.*]\nfollow_imports = skip"
        for name in ("pyarrow", "ray", "torch", "torchvision")
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nfollow_imports = silent\n{skipped}\n")
    python = installed / "bin" / "python"
    done = run(
        *(sys.executable, "-m", "mypy", "--python-executable", python, "calls.py"), cwd=tmp_path
    )
    assert done.stdout.splitlines() == [
        'calls.py:5: error: Argument "k" to "top_k" has incompatible type "str"; expected "int"'
        "  [arg-type]",
        "Found 1 error in 1 file (checked 1 source file)",
    ]
