"""The rules for locations: how others write them, and which all libraries resolve alike."""

import re

# How Spark writes the beginning of a URI, and what it stands for here. Databricks mounts dbfs:/
# at /dbfs on every machine.
_OF_SPARK = (
    (re.compile("file:/(?!/)"), "file:///"),
    (re.compile("dbfs:/+"), "/dbfs/"),
    (re.compile("s3[an]://"), "s3://"),
)

# Delta Lake decodes and truncates a URI as browsers do. To fsspec, some of these are wildcards.
_TAKEN_OTHERWISE = re.compile(r"[%#?*\[\]\\\x00-\x1f\x7f]")
_STEPS = {"", ".", ".."}


def as_here(location: str) -> str:
    """Return a location as it is written here, if Spark wrote it in its own way."""
    for spelling, here in _OF_SPARK:
        if found := spelling.match(location):
            return here + location[found.end() :]
    return location


def broken_rule(location: str) -> str | None:
    """Return the rule that a location breaks if libraries would resolve it differently."""
    scheme, is_uri, rest = location.partition("://")
    if not is_uri:
        decoded = "it must not contain %, which Delta Lake decodes on reading but not on writing"
        return decoded if "%" in location else None
    name, *parts = rest.rstrip("/").split("/")
    if scheme == "file" and name:
        return "it must have three slashes: file:///folder"
    if scheme != "file" and not name:
        return f"it must name a bucket: {scheme}://bucket/folder"
    if _TAKEN_OTHERWISE.search(rest) or not _STEPS.isdisjoint(parts):
        return (
            "a URI must not contain % # ? * [ ] \\ or control characters, nor a part that is '.', "
            "'..' or empty, because not all libraries resolve these to the same place"
        )
    return None
