"""The locations of files in a workspace."""

import re

from baal_ray.errors import ConfigError
from baal_ray.storage.files import join

# A leading dot or underscore hides a file, a slash makes a folder.
_ROUND_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def manifest_uri(workspace: str) -> str:
    """Return the Delta table of every image ever acquired or labelled."""
    return join(workspace, "manifest")


def checkpoint_uri(workspace: str, sha256: str) -> str:
    """Return the folder of one model, named by the sha256 of its weights."""
    return join(workspace, "checkpoints", sha256)


def fits_uri(workspace: str) -> str:
    """Return the folder of fits, each named by a hash of everything it depends on."""
    return join(workspace, "fits")


def scores_uri(workspace: str) -> str:
    """Return the folder of scores, with one folder per fingerprint."""
    return join(workspace, "scores")


def rounds_uri(workspace: str) -> str:
    """Return the folder of rounds."""
    return join(workspace, "rounds")


def round_uri(workspace: str, round_id: str) -> str:
    """Return the folder of one round.

    Raises:
        ConfigError: If a round may not have this id.
    """
    if not is_round_id(round_id):
        rule = "1 to 100 letters, digits, '.', '_' and '-', the first a letter or digit"
        raise ConfigError("round", [f"its id is {round_id!r}; it must be {rule}"])
    return join(rounds_uri(workspace), round_id)


def stage_uri(workspace: str, round_id: str, stage: str) -> str:
    """Return the file with the result of a stage of a round; errors as for `round_uri`."""
    return join(round_uri(workspace, round_id), f"{stage}.json")


def is_round_id(name: str) -> bool:
    """Return whether a round may have this id."""
    return _ROUND_ID.fullmatch(name) is not None


def batch_uri(workspace: str, round_id: str) -> str:
    """Return the folder of a round's acquisition batch, including its images."""
    return join(rounds_uri(workspace), round_id, "batch")


def report_uri(workspace: str, round_id: str) -> str:
    """Return the report page of a round."""
    return join(rounds_uri(workspace), round_id, "report.html")
