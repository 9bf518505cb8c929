"""Detection of secrets in URIs and store responses, and their removal from messages."""

import re

# A user and password. An AWS key may contain a slash, but what looks like a port and a path is no
# password.
_USERINFO = re.compile(
    r"(?<=://)[^\s/:@]*:(?!\d{1,5}/)[^\s@]*@|(?<=http://)[^\s/]+@|(?<=https://)[^\s/]+@"
)
_QUERY = re.compile(r"(://[^\s?#]*)[?#](\S*)")
_BEHIND_A_URI = "\"')],;:."  # punctuation after a URI in a message
# Named secrets, as in the connection strings of Azure.
_NAMED = re.compile(r"((?:key|signature|secret|token|password)=)[^\s;'\"]+", re.IGNORECASE)
# XML other than code and message. S3 returns an expired token in its response, and Delta Lake
# quotes the response.
_XML = re.compile(r"<\?xml[^>]*>|</[\w-]+>|<(?!(?:Code|Message)>)[\w-]+(?: xmlns=\S*)?>[^<]*")
_SECRET = re.compile(
    r"[?#&;][^=]*(?:sig|token|secret|key|passw|pwd|credential|auth|jwt|sas|code)[^=]*=",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a message without the parts that may be secret.

    From every URI, the user and password, the query and the fragment are removed, because a
    presigned URI carries its signature in the query. From a store's XML response, everything but
    the code and message is removed, and so are the values of names such as AccountKey.
    """
    without_users = _USERINFO.sub("…@", _XML.sub(" ", text))
    return _NAMED.sub(r"\1…", _QUERY.sub(_without_query, without_users))


def _without_query(uri: re.Match[str]) -> str:
    """Return a URI without its query, but with the punctuation that follows it in the message."""
    place, query = uri.groups()
    return f"{place}?…{query[len(query.rstrip(_BEHIND_A_URI)) :]}"


def has_secret(location: str) -> bool:
    """Return whether a path or URI contains a password or a query that looks like a signature."""
    return bool(_USERINFO.search(location) or _SECRET.search(location))
