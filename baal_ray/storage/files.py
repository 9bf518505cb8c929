"""Files in a workspace: published whole, created once, listed and read, at any fsspec URI.

A local file is written under a temporary name beside its target, flushed to disk and renamed (or
linked, when it must not exist yet); on an object store one PUT does the same. So a reader sees a
whole file or none.
"""

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from baal_ray.errors import CorruptFileError, StorageError
from baal_ray.storage.redaction import redacted
from baal_ray.storage.remedies import told

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.fs


_SHA256 = re.compile(r"([0-9a-f]{64})(?:\.[a-z]+)?")


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec filesystem of a URI or local path, with the path inside it.

    Raises:
        StorageError: no fsspec implementation is installed for the URI's protocol, or it refuses
            the URI.
    """
    if "://" not in uri:  # fsspec would take "::" in a file's name for a chain of filesystems
        return LocalFileSystem(), os.path.abspath(uri)
    if "::" in uri:
        raise StorageError(
            f"{redacted(uri)} cannot be opened: '::' would chain file systems. Use another name."
        )
    with storage_errors(repr(uri), "opened"):
        fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


def arrow_filesystem(uri: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """The same for pyarrow, which reads local files by itself and others through fsspec."""
    import pyarrow.fs

    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def open_arrow(uri: str) -> "pyarrow.NativeFile":
    """Open a file for pyarrow to read here and there in it.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    import pyarrow

    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        if isinstance(fs, LocalFileSystem):
            _refuse_special(path)
            return pyarrow.OSFile(path)
        # Not through `arrow_filesystem`, which takes whatever a store refuses for a missing file.
        return pyarrow.PythonFile(fs.open(path, "rb"), mode="r")


def is_local(uri: str) -> bool:
    """Whether a URI or path is on a file system of this machine."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def join(uri: str, *parts: str) -> str:
    """A URI below another."""
    return "/".join([uri.rstrip("/"), *parts])


def publish(uri: str, data: bytes) -> None:
    """Write a file whole, replacing what is there.

    Raises:
        StorageError: the path cannot be written.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "written"):
        if isinstance(fs, LocalFileSystem):
            temporary = _write_beside(path, data)
            try:
                os.replace(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
        else:
            fs.pipe_file(path, data)


def create_if_absent(uri: str, data: bytes) -> bool:
    """Write a file whole unless it exists; of several racing writers exactly one gets True.

    Raises:
        StorageError: the path cannot be written.
    """
    fs, path = filesystem(uri)
    try:
        with storage_errors(uri, "created"):
            if isinstance(fs, LocalFileSystem):
                _link(path, data)
            else:
                fs.pipe_file(path, data, mode="create")
    except StorageError:
        # Each store has its own word for "it exists": s3fs gives EINVAL for S3's 412.
        if exists(uri):
            return False
        raise
    return True


def _link(path: str, data: bytes) -> None:
    temporary = _write_beside(path, data)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _write_beside(path: str, data: bytes) -> str:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary


def sha256(data: bytes) -> str:
    """The sha256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def publish_by_sha256(folder_uri: str, data: bytes, extension: str) -> str:
    """Write a file named by the sha256 of its bytes; writing the same bytes again changes nothing.

    Returns:
        The file's URI, `<folder>/<sha256><extension>`.
    """
    uri = join(folder_uri, sha256(data) + extension)
    publish(uri, data)
    return uri


def read(uri: str) -> bytes:
    """The bytes of a file.

    Raises:
        StorageError: the file is missing or cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        return bytes(fs.cat_file(path))


def read_at_most(uri: str, limit: int) -> bytes:
    """The bytes of a file that is no larger than a limit; an HTTP server must have it itself.

    Of a larger file no more than that is asked for, and of a local one nothing is read.

    Raises:
        StorageError: the file is larger, missing, no file, or cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        if isinstance(fs, LocalFileSystem):
            _refuse_special(path)
            too_large = os.path.getsize(path) > limit
            data = b"" if too_large else bytes(fs.cat_file(path))
        else:
            # aiohttp refuses the first redirect when one is too many; 0 means any number to it.
            once = {"max_redirects": 1} if uri.startswith("http") else {}
            data = bytes(fs.cat_file(path, start=0, end=limit + 1, **once))
            too_large = len(data) > limit
    if too_large:
        raise StorageError(
            f"{redacted(uri)} has more than {limit} bytes, which is the most that one image file "
            "may have; make it smaller"
        )
    return data


def _refuse_special(path: str) -> None:
    """Raise OSError for a pipe or device, which could keep its reader forever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a pipe, socket or device. Put a file in its place")


def read_verified(uri: str) -> bytes:
    """The bytes of a file named by its sha256, checked against that name.

    Raises:
        CorruptFileError: the name carries no sha256, or another one than the bytes have.
        StorageError: the file is missing or cannot be read.
    """
    named = _SHA256.fullmatch(uri.rsplit("/", 1)[-1])
    if named is None:
        raise CorruptFileError(
            f"{uri} is not named by a sha256, so it was not written by baal_ray"
        )
    data = read(uri)
    found = sha256(data)
    if found != named.group(1):
        raise CorruptFileError(
            f"{uri} holds bytes with sha256 {found}: it is torn, truncated or rotten. Delete it; "
            "it is made again."
        )
    return data


def read_json(uri: str, remedy: str = "Put back a whole copy of it.") -> dict[str, Any]:
    """The object in a JSON file of a workspace.

    Args:
        uri: the file.
        remedy: what to do if it is rotten.

    Raises:
        CorruptFileError: it holds no JSON object.
        StorageError: the file is missing or cannot be read.
    """
    data = read(uri)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{uri} has {len(data)} bytes that are no whole JSON ({error}). {remedy}"
        ) from error
    if not isinstance(found, dict):
        raise CorruptFileError(f"{uri} holds no JSON object. {remedy}")
    return found


def is_named_by_sha256(uri: str) -> bool:
    """Whether a file's name is a sha256, with or without an extension."""
    return _SHA256.fullmatch(uri.rsplit("/", 1)[-1]) is not None


def delete(uri: str) -> None:
    """Remove a file; it is no fault if it is gone already.

    Raises:
        StorageError: the file cannot be removed.
    """
    fs, path = filesystem(uri)
    try:
        with storage_errors(uri, "deleted"):
            fs.rm_file(path)
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def delete_tree(uri: str) -> None:
    """Remove a file, or a folder or prefix with all below it; no fault if it is gone already.

    Raises:
        StorageError: something in it cannot be removed.
    """
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    with storage_errors(uri, "deleted"), suppress(FileNotFoundError):
        if isinstance(fs, LocalFileSystem) or not has_magic(path):
            fs.rm(path, recursive=True)
            return
        for file in fs.find(path):  # `rm` takes ws[1] for a pattern, and removes ws1
            fs.rm_file(file)


def size(uri: str) -> int:
    """The bytes of a file, or of all files below a folder or prefix; 0 if it is absent.

    Raises:
        StorageError: the store does not say.
    """
    fs, path = filesystem(uri)
    if not exists(uri):
        return 0
    with storage_errors(uri, "measured"):
        return int(fs.du(path))


def exists(uri: str) -> bool:
    """Whether a file or folder is there.

    Raises:
        StorageError: the store does not say.
    """
    fs, path = filesystem(uri)
    fs.invalidate_cache()  # others write too
    with storage_errors(uri, "looked up"):
        return bool(fs.exists(path))


@contextmanager
def storage_errors(what: str, done: str) -> Iterator[None]:
    """Whatever a store raises in the block is a StorageError: `what` cannot be `done`."""
    try:
        yield
    except Exception as error:  # each store has its own: OSError, botocore's, aiohttp's, Google's
        raise StorageError(told(f"{what} cannot be {done}", error)) from error
