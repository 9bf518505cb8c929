"""The files that a submitted job takes along: what its configuration names, or a whole folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from baal_ray.config import ModelConfig, RoundConfig
from baal_ray.errors import SubmissionError


@dataclass(frozen=True)
class JobFiles:
    """Files to upload.

    Attributes:
        folder: Folder that becomes the job's working directory.
        config: Path of the configuration in it.
        excludes: Patterns of what is not uploaded, as in a .gitignore.
        left_out: Links that lead out of the folder, and are not followed.
    """

    folder: str
    config: str
    excludes: Sequence[str] = ()
    left_out: Sequence[str] = ()

    def summary(self) -> str:
        """Return the number and the size of the files, found by the walk that Ray packs by."""
        sizes: list[int] = []

        def count(path: Path) -> None:
            if path.is_file():
                sizes.append(path.stat().st_size)

        root = Path(self.folder)
        excludes = [_get_excludes(root, list(self.excludes))]
        _dir_travel(root, excludes, count, include_gitignore=True)
        told = f"{len(sizes)} files with {sum(sizes):,} bytes go along"
        if self.left_out:
            links = ", ".join(self.left_out[:5])
            told += f"; {len(self.left_out)} links that lead elsewhere do not, such as {links}"
        return told


@contextmanager
def job_files(
    config_path: str, config: RoundConfig, working_dir: str | None
) -> Iterator[JobFiles]:
    """Provide the files of a job while it is submitted.

    Args:
        config_path: Path of the YAML file.
        config: Configuration in that file.
        working_dir: Folder to upload, without the workspace and the images. None for only the
            YAML file, and the factory's module or package and the weights if they lie beside it.

    Raises:
        SubmissionError: If the YAML file is not in the folder.
    """
    path = os.path.abspath(config_path)
    if working_dir is not None:
        yield _of_folder(path, config, os.path.abspath(working_dir))
        return
    with tempfile.TemporaryDirectory(prefix="baal-ray-job-") as folder:
        beside = os.path.dirname(path)
        shutil.copyfile(path, os.path.join(folder, os.path.basename(path)))
        for name in _named(beside, config.model):
            _copy(os.path.join(beside, name), os.path.join(folder, name))
        yield JobFiles(folder, os.path.basename(path))


def _of_folder(path: str, config: RoundConfig, folder: str) -> JobFiles:
    if os.path.commonpath([folder, path]) != folder:
        raise SubmissionError(
            f"{path} is not in {folder}, the folder that is uploaded with the job; name one that "
            "holds it with --working-dir"
        )
    links = list(_links_out(folder))
    excludes = [*data_in(folder, config), *map(_pattern, links)]
    return JobFiles(folder, os.path.relpath(path, folder), excludes, links)


def data_in(folder: str, config: RoundConfig) -> list[str]:
    """Return the workspace and the images that lie in a folder, as patterns of a .gitignore."""
    locations = [config.workspace, config.pool.uri, config.training.evaluation_set]
    inside = [at for at in locations if at is not None and at.startswith(folder + os.sep)]
    return [_pattern(os.path.relpath(location, folder)) for location in inside]


def _named(beside: str, model: ModelConfig) -> list[str]:
    """Return the names, in the folder of the configuration, of what its model names."""
    module = model.factory.partition(":")[0].partition(".")[0] if ":" in model.factory else ""
    names = [f"{module}.py", module] if module.isidentifier() else []
    package = os.path.join(beside, module, "__init__.py")
    if os.path.exists(os.path.join(beside, f"{module}.py")) and not os.path.exists(package):
        names = names[:1]  # Python would not import the folder
    weights = model.weights or ""
    if weights and not os.path.isabs(weights) and ".." not in Path(weights).parts:
        names.append(weights)
    return [name for name in names if os.path.exists(os.path.join(beside, name))]


def _copy(source: str, target: str) -> None:
    """Copy a file, or the files of a package that are neither hidden nor special."""
    if not os.path.isdir(source):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(source, target)
        return
    for folder, below, files in os.walk(source):
        below[:] = [name for name in below if not name.startswith((".", "__pycache__"))]
        for name in files:
            file = os.path.join(folder, name)
            is_plain = os.path.isfile(file) and not _leads_out(file, source)
            if is_plain and not name.startswith("."):
                copied = os.path.join(target, os.path.relpath(file, source))
                os.makedirs(os.path.dirname(copied), exist_ok=True)
                shutil.copyfile(file, copied)


def _links_out(folder: str) -> Iterator[str]:
    """Yield the links in a folder that lead out of it, or to a folder that they are in."""
    for place, below, files in os.walk(folder):
        for name in [*below, *files]:
            path = os.path.join(place, name)
            if os.path.islink(path) and (_leads_out(path, folder) or _leads_up(path)):
                yield os.path.relpath(path, folder)


def _leads_out(path: str, folder: str) -> bool:
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) != root


def _leads_up(path: str) -> bool:
    target = os.path.realpath(path)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(path))]) == target


def _pattern(name: str) -> str:
    """Return a pattern of a .gitignore for a file of this name alone."""
    return "/" + "".join(f"\\{char}" if char in "\\*?[]!# " else char for char in name)
