"""Where the images of a pool may lie: under its own folder, or one that `pool.roots` names."""

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from baal_ray import storage
from baal_ray.errors import StorageError
from baal_ray.storage.redaction import redacted

# An encoded "..", encoded again; who encodes it more often is refused as well.
_DECODINGS = 3
# Presigned ones have some 2,000 characters.
_LONGEST = 4096
# HTTP clients strip some of them, which may leave "..".
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Roots:
    """The folders and prefixes that images may be fetched from."""

    def __init__(self, own: str, further: Iterable[str] = ()) -> None:
        """Name the pool's own folder, which relative URIs are below, and further ones."""
        self._own = own
        self._resolved = [root for root in map(_resolved, [own, *further]) if root]

    def resolve(self, uri: str) -> str:
        """Where the image that a pool names is: an absolute path without links, or the URI.

        Other URIs are compared as they are written, since a store may understand another spelling
        in its own way.

        Raises:
            StorageError: it is under none of the roots, a URI with control characters or
                an endless one.
        """
        if len(uri) > _LONGEST:
            raise StorageError(
                f"a URI of {len(uri)} characters is not fetched; {_LONGEST} are the most"
            )
        place = uri if "://" in uri or uri.startswith("/") else storage.join(self._own, uri)
        if "://" in place and _CONTROL.search(place):
            raise StorageError(
                redacted(f"{uri!r} is not fetched, as it has a control character in it. Rename it")
            )
        resolved = _resolved(place)
        if resolved and any(_is_below(resolved, root) for root in self._resolved):
            return resolved
        linked = f", which is {resolved}," if resolved and resolved != place else ""
        raise StorageError(
            redacted(
                f"{uri}{linked} is not fetched, as it is not under {self._own}. Move it there, or "
                "add the folder it is in to pool.roots"
            )
        )


def _resolved(uri: str) -> str | None:
    """A local path without links or "..", another URI as it is; None if it is neither for sure."""
    path = uri.removeprefix("file://")
    if path == uri and "://" in uri:
        return None if _climbs(uri) else uri
    return os.path.realpath(path) if path.startswith("/") and "\0" not in path else None


def _climbs(uri: str) -> bool:
    """Whether a server could take a part of a URI for "..", however often it is encoded."""
    for _ in range(_DECODINGS):
        uri = unquote(uri)
    parts = re.split(r"[/\\]", uri)
    return uri != unquote(uri) or any(part.split(";")[0] == ".." for part in parts)


def _is_below(place: str, root: str) -> bool:
    return place.startswith(root.rstrip("/") + "/")
