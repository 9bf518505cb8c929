"""What differs between the settings that something was begun with and those of now."""

from collections.abc import Iterator, Mapping
from typing import Any


def differences(
    planned: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """A sentence for each setting that differs, sections joined by dots."""
    for key in sorted(planned.keys() | now.keys()):
        before, after = planned.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {before!r} when it was planned; it is {after!r} now"
