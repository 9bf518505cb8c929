"""Files that the workspace needs: whoever reads one checks it, and reports one that is lost."""

import json
import re
from typing import Any

from baal_ray.errors import CorruptFileError, LostFileError, StorageError
from baal_ray.storage import files

_SHA256 = re.compile(r"([0-9a-f]{64})(?:\.[a-z]+)?")


def is_named_by_sha256(uri: str) -> bool:
    """Return whether a file's name is a sha256, with or without an extension."""
    return _SHA256.fullmatch(files.name(uri)) is not None


def publish_by_sha256(folder_uri: str, data: bytes, extension: str) -> str:
    """Write a file named by the sha256 of its bytes. Writing them again changes nothing.

    Returns:
        The file's URI, `<folder>/<sha256><extension>`.
    """
    uri = files.join(folder_uri, files.sha256(data) + extension)
    files.publish(uri, data)
    return uri


def read_verified(uri: str) -> bytes:
    """Return the bytes of a file named by its sha256, checked against that name.

    Raises:
        LostFileError: If the file is missing, or its sha256 is not the one in its name.
        CorruptFileError: If the name contains no sha256.
        StorageError: If the file cannot be read.
    """
    named = _SHA256.fullmatch(files.name(uri))
    if named is None:
        raise CorruptFileError(
            f"{uri} is not named by a sha256, so it was not written by baal_ray"
        )
    data = read_needed(uri)
    found = files.sha256(data)
    if found != named.group(1):
        raise LostFileError(uri, f"is damaged: its sha256 is {found}, not the one in its name")
    return data


def read_needed(uri: str) -> bytes:
    """Return the bytes of a file that the workspace needs.

    Raises:
        LostFileError: If the file is missing.
        StorageError: If the file cannot be read.
    """
    try:
        return files.read(uri)
    except StorageError as error:
        raise _lost(uri, error) from error


def read_range(uri: str, start: int, end: int) -> bytes:
    """Return bytes `start` to `end` (exclusive) of a file that the workspace needs.

    Raises:
        LostFileError: If the file is missing.
        StorageError: If the file cannot be read.
    """
    fs, path = files.filesystem(uri)
    try:
        with files.storage_errors(uri, "read"):
            return bytes(fs.cat_file(path, start=start, end=end))
    except StorageError as error:
        raise _lost(uri, error) from error


def _lost(uri: str, error: StorageError) -> StorageError:
    """Return the error to raise for a needed file that cannot be read."""
    missing = isinstance(error.__cause__, FileNotFoundError)
    return LostFileError(uri, "is missing") if missing else error


def read_json(uri: str, remedy: str = "Restore an intact copy of it.") -> dict[str, Any]:
    """Return the object in a JSON file of a workspace.

    Args:
        uri: URI of the file.
        remedy: Advice to give if the file is damaged.

    Raises:
        LostFileError: If the file is missing, or does not hold a JSON object.
        StorageError: If the file cannot be read.
    """
    data = read_needed(uri)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LostFileError(
            uri, f"({len(data)} bytes) is not valid JSON ({error}). {remedy}"
        ) from error
    if not isinstance(found, dict):
        raise LostFileError(uri, f"does not hold a JSON object. {remedy}")
    return found
