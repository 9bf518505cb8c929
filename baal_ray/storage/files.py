"""Files in a workspace at any fsspec URI: published whole, created once, read and deleted.

A local file is written under a temporary name beside its target, flushed to disk, and renamed (or
linked, if the target must not exist yet). On an object store one PUT does the same. So a reader
sees a whole file or none.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from baal_ray.errors import StorageError
from baal_ray.storage.redaction import redacted
from baal_ray.storage.remedies import explained
from baal_ray.storage.uri_rules import as_here

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.fs


#: Requests to a store at a time, where many small files are read.
REQUESTS_AT_A_TIME = 16


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the fsspec filesystem of a URI or local path, and the path inside it.

    An HTTP server must have the files itself: redirects are refused.

    Raises:
        StorageError: If no fsspec implementation is installed for the URI's protocol, or it
            refuses the URI.
    """
    uri = as_here(uri)
    if "://" not in uri:  # fsspec would read "::" in a file's name as a chain of filesystems
        return LocalFileSystem(), os.path.abspath(uri)
    if "::" in uri:
        raise StorageError(
            f"{redacted(uri)} cannot be opened: '::' would chain file systems. Use another name."
        )
    with storage_errors(repr(uri), "opened"):
        # With 1, aiohttp refuses the first redirect, which could lead into an inner network. With
        # 0, it would follow any number.
        options = {"max_redirects": 1} if uri.lower().startswith(("http://", "https://")) else {}
        fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def arrow_filesystem(uri: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """Return pyarrow's filesystem of a URI or local path, and the path inside it.

    pyarrow reads local files by itself and all others through fsspec.
    """
    import pyarrow.fs

    fs, path = filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def open_arrow(uri: str) -> "pyarrow.NativeFile":
    """Open a file for random access by pyarrow.

    Raises:
        StorageError: If the file is missing or cannot be read.
    """
    import pyarrow

    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        if isinstance(fs, LocalFileSystem):
            _refuse_special(path)
            return pyarrow.OSFile(path)
        # Not through `arrow_filesystem`, which reports whatever a store refuses as a missing file.
        return pyarrow.PythonFile(fs.open(path, "rb"), mode="r")


def is_local(uri: str) -> bool:
    """Return whether a URI or path is on a file system of this machine."""
    return isinstance(filesystem(uri)[0], LocalFileSystem)


def join(uri: str, *parts: str) -> str:
    """Join a URI and the parts of a path below it."""
    return "/".join([uri.rstrip("/"), *parts])


def publish(uri: str, data: bytes) -> None:
    """Write a file whole, replacing any file that is there.

    Raises:
        StorageError: If the path cannot be written.
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
    """Create a whole file unless it exists. Of several racing writers, at most one gets True.

    Raises:
        StorageError: If the path cannot be written.
    """
    fs, path = filesystem(uri)
    try:
        with storage_errors(uri, "created"):
            if isinstance(fs, LocalFileSystem):
                _link(path, data)
            else:
                fs.pipe_file(path, data, mode="create")
    except StorageError:
        # Each store reports an existing file in its own way: s3fs raises EINVAL for S3's 412.
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


def name(uri: str) -> str:
    """Return the last part of a URI: the name of a file or folder."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def sha256(data: bytes) -> str:
    """Return the sha256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read(uri: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        StorageError: If the file is missing or cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        return bytes(fs.cat_file(path))


def read_at_most(uri: str, limit: int) -> bytes:
    """Return the bytes of a file if it is no larger than a limit.

    If it is larger, only the bytes up to the limit and one more are requested from a store, and
    nothing is read from a disk.

    Raises:
        StorageError: If the file is larger, is missing, is not a regular file, or cannot be read.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "read"):
        if isinstance(fs, LocalFileSystem):
            _refuse_special(path)
            too_large = os.path.getsize(path) > limit
            data = b"" if too_large else bytes(fs.cat_file(path))
        else:
            data = bytes(fs.cat_file(path, start=0, end=limit + 1))
            too_large = len(data) > limit
    if too_large:
        raise StorageError(
            f"{redacted(uri)} has more than {limit} bytes, the most that an image file may have; "
            "make it smaller"
        )
    return data


def read_head(uri: str, size: int) -> bytes:
    """Return the first bytes of a file; none of a file that is empty or cannot be read."""
    fs, path = filesystem(uri)
    with suppress(StorageError), storage_errors(uri, "read"):
        if isinstance(fs, LocalFileSystem):
            _refuse_special(path)
        return bytes(fs.cat_file(path, start=0, end=size))
    return b""


def _refuse_special(path: str) -> None:
    """Raise OSError for a pipe, socket or device, which could block its reader forever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a pipe, socket or device. Put a file in its place")


def delete(uri: str) -> None:
    """Remove a file. It is not an error if the file is already gone.

    Raises:
        StorageError: If the file cannot be removed.
    """
    fs, path = filesystem(uri)
    try:
        with storage_errors(uri, "deleted"):
            fs.rm_file(path)
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise


def delete_tree(uri: str, *, last: Collection[str] = ()) -> None:
    """Remove a file, or a folder or prefix with everything below it.

    It is not an error if it is already gone.

    Args:
        uri: Location of the file, folder or prefix.
        last: Names of files that are removed after all others, so that after a kill they still
            say what the rest is.

    Raises:
        StorageError: If something in it cannot be removed.
    """
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    with storage_errors(uri, "deleted"), suppress(FileNotFoundError):
        if isinstance(fs, LocalFileSystem):
            _delete_local_tree(path, last)
        else:
            files = fs.find(path)
            _delete_objects(fs, [file for file in files if name(file) not in last])
            _delete_objects(fs, [file for file in files if name(file) in last])


def _delete_local_tree(path: str, last: Collection[str]) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        os.remove(path)  # of a link, not what it leads to
        return
    for folder, _, files in os.walk(path):
        for file in files:
            if file not in last:
                os.remove(os.path.join(folder, file))
    shutil.rmtree(path)


def _delete_objects(fs: fsspec.AbstractFileSystem, paths: list[str]) -> None:
    if any(map(has_magic, paths)):  # `rm` reads ws[1] as a pattern and removes ws1
        for path in paths:
            fs.rm_file(path)
    elif paths:
        fs.rm(paths)  # many in one request


def size(uri: str) -> int:
    """Return the bytes of a file, or of all files below a folder or prefix, or 0 if it is absent.

    Raises:
        StorageError: If the store does not answer.
    """
    fs, path = filesystem(uri)
    if not exists(uri):
        return 0
    with storage_errors(uri, "measured"):
        return int(fs.du(path))


def exists(uri: str) -> bool:
    """Return whether a file or folder exists.

    Raises:
        StorageError: If the store does not answer.
    """
    fs, path = filesystem(uri)
    fs.invalidate_cache()  # other processes write too
    with storage_errors(uri, "looked up"):
        return bool(fs.exists(path))


def is_file(uri: str) -> bool:
    """Return whether a URI names a file, not a folder or nothing.

    Raises:
        StorageError: If the store does not answer.
    """
    fs, path = filesystem(uri)
    with storage_errors(uri, "looked up"):
        return bool(fs.isfile(path))


@contextmanager
def storage_errors(what: str, done: str) -> Iterator[None]:
    """Turn any error in the block into a StorageError that says "`what` cannot be `done`"."""
    try:
        yield
    except Exception as error:  # stores differ: OSError, botocore's, aiohttp's, Google's
        raise StorageError(explained(f"{what} cannot be {done}", error)) from error
