"""The module of `model.factory`, imported from the configuration's folder if it lies there."""

import os
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec

_folders: list[str] = []


def import_beside(config_path: str, factory: str) -> None:
    """Let a factory's module be imported from the folder of the configuration.

    Nothing changes if it is found elsewhere. The folder comes last on the Python path, so that a
    file in it hides no other module.

    Args:
        config_path: Path of the configuration file.
        factory: The setting `model.factory`.
    """
    module, is_own, _ = factory.partition(":")
    package, folder = module.split(".")[0], os.path.dirname(os.path.abspath(config_path))
    if not (is_own and package) or find_spec(package) is not None:
        return
    if PathFinder.find_spec(package, [folder]) is not None:
        sys.path.append(folder)
        _folders.append(folder)


def worker_setup() -> Callable[[], None] | None:
    """Return what each of Ray's workers must call to import that module; None for nothing."""
    folders = list(_folders)

    def extend_path() -> None:  # Ray needs a function with a name
        sys.path.extend(folders)

    return extend_path if folders else None
