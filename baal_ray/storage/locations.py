"""Which locations Delta Lake and fsspec take for the same place."""

import re

# Delta Lake decodes and cuts a URI as browsers do; to fsspec some of these are a pattern.
_TAKEN_OTHERWISE = re.compile(r"[%#?*\[\]\\\x00-\x1f\x7f]")
_STEPS = {"", ".", ".."}


def rule_broken(location: str) -> str | None:
    """The rule that a location breaks, if one library would take it for another place."""
    scheme, is_uri, rest = location.partition("://")
    if not is_uri:
        decoded = "it must have no %, which Delta Lake decodes where it reads, not where it writes"
        return decoded if "%" in location else None
    name, *parts = rest.rstrip("/").split("/")
    if scheme == "file" and name:
        return "it must have three slashes: file:///folder"
    if scheme != "file" and not name:
        return f"it must name a bucket: {scheme}://bucket/folder"
    if _TAKEN_OTHERWISE.search(rest) or not _STEPS.isdisjoint(parts):
        return (
            "a URI must have none of % # ? * [ ] \\ nor control characters, and no part that is "
            "'.', '..' or empty, as not all libraries take these for the same place"
        )
    return None
