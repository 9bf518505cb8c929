"""Where a workspace keeps what."""

import re

from baal_ray.errors import ConfigError
from baal_ray.storage.files import join

# A leading dot or underscore hides a file, a slash makes a folder.
_ROUND_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def manifest_uri(workspace: str) -> str:
    """The Delta table of every image ever acquired or labelled."""
    return join(workspace, "manifest")


def checkpoint_uri(workspace: str, sha256: str) -> str:
    """The folder of one model, named by the sha256 of its weights."""
    return join(workspace, "checkpoints", sha256)


def fits_uri(workspace: str) -> str:
    """The folder of fits, each named by a hash of what it depends on."""
    return join(workspace, "fits")


def scores_uri(workspace: str) -> str:
    """The folder of scores, with one folder a fingerprint."""
    return join(workspace, "scores")


def rounds_uri(workspace: str) -> str:
    """The folder of rounds."""
    return join(workspace, "rounds")


def round_uri(workspace: str, round_id: str) -> str:
    """The folder of one round.

    Raises:
        ConfigError: the round's id cannot be one.
    """
    if not is_round_id(round_id):
        rule = "letters, digits, '.', '_' and '-', 100 at most, the first a letter or digit"
        raise ConfigError("round", [f"its id is {round_id!r}; it must be {rule}"])
    return join(rounds_uri(workspace), round_id)


def stage_uri(workspace: str, round_id: str, stage: str) -> str:
    """What a stage of a round came to; raises as `round_uri` does."""
    return join(round_uri(workspace, round_id), f"{stage}.json")


def is_round_id(name: str) -> bool:
    """Whether a round may have this name."""
    return _ROUND_ID.fullmatch(name) is not None


def batch_uri(workspace: str, round_id: str) -> str:
    """The folder of a round's acquisition batch, images and all."""
    return join(rounds_uri(workspace), round_id, "batch")


def report_uri(workspace: str, round_id: str) -> str:
    """The page that shows a round."""
    return join(rounds_uri(workspace), round_id, "report.html")
