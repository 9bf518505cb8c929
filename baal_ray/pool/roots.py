"""The places where a pool's images may lie: its own folder, and those in `pool.roots`."""

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.storage.redaction import redacted
from baal_ray.storage.uri_rules import as_here

# Most times a URI is decoded to find a "..". A URI that is still encoded after that is refused.
_DECODINGS = 3
# The most characters of a URI. Presigned URIs have about 2,000.
_LONGEST = 4096
# Control characters. HTTP clients strip some of them, which may leave "..".
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Roots:
    """The folders and prefixes that images may be fetched from."""

    def __init__(self, own: str, further: Iterable[str] = ()) -> None:
        """Set the pool's own folder, which relative URIs are below, and further roots."""
        self._own = as_here(own)
        self._resolved = [root for root in map(_resolved, map(as_here, [own, *further])) if root]

    def resolve(self, uri: str) -> str:
        """Return where an image of the pool is: an absolute path without links, or the URI.

        URIs other than local paths are compared as they are written (except for Spark's ways of
        writing them), because a store may interpret another spelling in its own way.

        Raises:
            StorageError: If the image is under none of the roots, or its URI contains control
                characters or is too long.
        """
        if len(uri) > _LONGEST:
            raise StorageError(
                f"a URI of {len(uri)} characters is not fetched; it may have at most {_LONGEST}"
            )
        uri = as_here(uri)
        place = uri if "://" in uri or uri.startswith("/") else storage.join(self._own, uri)
        if "://" in place and _CONTROL.search(place):
            raise StorageError(
                redacted(f"{uri!r} is not fetched, as it contains a control character. Rename it")
            )
        resolved = _resolved(place)
        if resolved and any(_is_below(resolved, root) for root in self._resolved):
            return resolved
        linked = f", which is {resolved}," if resolved and resolved != place else ""
        raise StorageError(
            redacted(
                f"{uri}{linked} is not fetched, as it is not under {self._own}. Move it there, or "
                "add its folder to pool.roots"
            )
        )


def _resolved(uri: str) -> str | None:
    """Return a local path without links or "..", a URI as it is, or None if neither is safe."""
    path = uri.removeprefix("file://")
    if path == uri and "://" in uri:
        return None if _climbs(uri) else uri
    return os.path.realpath(path) if path.startswith("/") and "\0" not in path else None


def _climbs(uri: str) -> bool:
    """Return whether a server could read a part of a URI as "..", however often it is encoded."""
    for _ in range(_DECODINGS):
        uri = unquote(uri)
    parts = re.split(r"[/\\]", uri)
    return uri != unquote(uri) or any(part.split(";")[0] == ".." for part in parts)


def _is_below(place: str, root: str) -> bool:
    return place.startswith(root.rstrip("/") + "/")
