"""Secrets that stand in URIs and in what stores answer: recognised, and left out of messages."""

import re

# An AWS key may have a slash in it; what looks like a port and a path is none.
_USERINFO = re.compile(
    r"(?<=://)[^\s/:@]*:(?!\d{1,5}/)[^\s@]*@|(?<=http://)[^\s/]+@|(?<=https://)[^\s/]+@"
)
_QUERY = re.compile(r"(://[^\s?#]*)[?#](\S*)")
_BEHIND_A_URI = "\"')],;:."  # in a message
# As in the connection strings of Azure.
_NAMED = re.compile(r"((?:key|signature|secret|token|password)=)[^\s;'\"]+", re.IGNORECASE)
# S3 sends an expired token back in its answer, which Delta Lake quotes.
_XML = re.compile(r"<\?xml[^>]*>|</[\w-]+>|<(?!(?:Code|Message)>)[\w-]+(?: xmlns=\S*)?>[^<]*")
_SECRET = re.compile(
    r"[?#&;][^=]*(?:sig|token|secret|key|passw|pwd|credential|auth|jwt|sas|code)[^=]*=",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """A message without what may be secret in it.

    What goes: of every URI the user and password, the query and the fragment, as a presigned URI
    has its signature there; of a store's answer in XML all but its code and message; what a name
    such as AccountKey is set to.
    """
    without_users = _USERINFO.sub("…@", _XML.sub(" ", text))
    return _NAMED.sub(r"\1…", _QUERY.sub(_without_query, without_users))


def _without_query(uri: re.Match[str]) -> str:
    """A URI whose whole query is left out, up to what the message puts behind it."""
    place, query = uri.groups()
    return f"{place}?…{query[len(query.rstrip(_BEHIND_A_URI)) :]}"


def has_secret(location: str) -> bool:
    """Whether a path or URI has a password in it, or a query that looks like a signature."""
    return bool(_USERINFO.search(location) or _SECRET.search(location))
