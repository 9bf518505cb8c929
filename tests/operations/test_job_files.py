"""Tests of what leaves the machine with a job, packed by Ray itself."""

import os
import socket
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

from baal_ray.config import RoundConfig
from baal_ray.errors import SubmissionError
from baal_ray.operations.job_files import data_in, job_files

SECRET = "of id_rsa"


def config(home: Path, **model: object) -> RoundConfig:
    return RoundConfig.from_dict(
        {
            "workspace": f"{home}/workspace",
            "classes": ["cat", "dog"],
            "pool": {"uri": f"{home}/images"},
            "model": model,
            "selection": {"k": 1},
        }
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home directory with a key, data, models, links that lead out, and a pipe."""
    home, outside = tmp_path / "home", tmp_path / "outside"
    files = ["round.yaml", "my_models.py", "other.py", "weights/w.pt", "images/a.jpg"]
    files += ["my_package/__init__.py", "my_package/nets/small.py", "my_package/.env"]
    files += ["my_package/__pycache__/a.pyc", "workspace/manifest/a.parquet"]
    for name in files:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    for key in (home / ".ssh" / "id_rsa", outside / "id_rsa"):
        key.parent.mkdir(parents=True)
        key.write_text(SECRET)
    for folder in (home, home / "my_package"):
        (folder / "link").symlink_to(outside / "id_rsa")
        (folder / "folder link [1]").symlink_to(outside)
        (folder / "loop").symlink_to(folder)
        (folder / "inside").symlink_to(home / "my_package" / "__init__.py")
        os.mkfifo(folder / "pipe")
    return home


def packed(home: Path, settings: RoundConfig, working_dir: str | None, out: Path) -> set[str]:
    """Return the names of the files in the package that Ray makes, and check the summary."""
    with job_files(str(home / "round.yaml"), settings, working_dir) as files:
        create_package(
            files.folder,
            out,
            include_gitignore=True,
            excludes=list(files.excludes),
        )
        told = files.summary()
    with ZipFile(out) as package:
        found = [entry for entry in package.infolist() if not entry.is_dir()]
        assert SECRET.encode() not in b"".join(package.read(entry) for entry in found)
    size = sum(entry.file_size for entry in found)
    assert told.startswith(f"{len(found)} files with {size:,} bytes go along")
    return {entry.filename for entry in found}


@pytest.mark.parametrize(
    ("model", "along"),
    [
        ({}, set()),
        ({"factory": "vgg11"}, set()),
        ({"factory": "my_models:net"}, {"my_models.py"}),
        (
            {"factory": "my_package.nets.small:net"},
            {"my_package/__init__.py", "my_package/nets/small.py", "my_package/inside"},
        ),
        ({"weights": "weights/w.pt"}, {"weights/w.pt"}),
        ({"weights": "../outside/id_rsa"}, set()),
        ({"factory": "../outside/id_rsa:net"}, set()),
        ({"factory": "installed_elsewhere:net"}, set()),
    ],
)
def test_a_job_takes_along_what_is_named(home: Path, tmp_path: Path, model, along):
    found = packed(home, config(home, **model), None, tmp_path / "job.zip")
    assert found == {"round.yaml"} | along


@pytest.mark.timeout(60)
def test_a_folder_that_is_named_goes_along_without_data_and_links_that_lead_out(home, tmp_path):
    (home / ".gitignore").write_text(".ssh\n")
    found = packed(home, config(home), str(home), tmp_path / "job.zip")
    names = {name for name in found if not name.startswith("my_package/")}
    assert names == {
        ".gitignore",
        "round.yaml",
        "my_models.py",
        "other.py",
        "weights/w.pt",
        "inside",
    }
    with job_files(str(home / "round.yaml"), config(home), str(home)) as files:
        assert "6 links that lead elsewhere do not, such as " in files.summary()


def test_a_configuration_outside_of_the_folder_is_refused(home, tmp_path):
    with (
        pytest.raises(SubmissionError, match="--working-dir"),
        job_files(str(home / "round.yaml"), config(home), str(tmp_path / "outside")),
    ):
        pass


def test_a_socket_is_passed_over(home, tmp_path):
    (home / ".ssh" / "id_rsa").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(home)  # a socket's path must be short
        listening.bind("socket")
        os.chdir(before)
        assert "socket" not in packed(home, config(home), str(home), tmp_path / "job.zip")


def test_data_beside_the_configuration_is_not_uploaded():
    settings = config(Path("/data/cats"))
    assert data_in("/data/cats", settings) == ["/workspace", "/images"]
    assert data_in("/data/cat", settings) == []
