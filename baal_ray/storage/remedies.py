"""Remedies for the failures of stores, found from the errors that they raise."""

import errno
import re
from collections.abc import Iterator

from baal_ray.storage.redaction import redacted

_SPACE = "Free some space there or add more, then run this again."
_RIGHTS = "The user that runs this needs permission to read and write there: grant it."
_READ_ONLY = "It is mounted read-only: mount it for writing, or use another path."
_THERE = "Correct the path, or restore what was there."
_ANSWER = (
    "The store does not respond: check that it runs, that its endpoint in the environment is "
    "right, and that every node can reach it, then run this again."
)
_BUSY = "The store is busy: run this again later."
_NO_CREDENTIALS = (
    "No credentials were found: put them in the environment of the driver and of every node."
)
_EXPIRED = (
    "The credentials seem to have expired: renew them in the environment of the driver and of "
    "every node, then run this again."
)
_REFUSED = (
    "Check that the credentials in the environment of the driver and of every node are the right "
    "ones, are still valid, and may read and write there."
)
_EMPTY = "The file is empty: upload it again."
_REDIRECTED = "The server redirects, and redirects are not followed: give the final URI."

_BY_NUMBER = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _READ_ONLY,
    errno.ENOENT: _THERE,
    errno.ENOTDIR: _THERE,
    errno.ECONNREFUSED: _ANSWER,
    errno.ECONNRESET: _ANSWER,
    errno.ETIMEDOUT: _ANSWER,
    errno.EHOSTUNREACH: _ANSWER,
    errno.ENETUNREACH: _ANSWER,
    errno.EBUSY: _BUSY,
}

# Remedies by the words that botocore, s3fs, gcsfs, adlfs, aiohttp and Delta Lake use in types or
# texts. When asked whether an object exists, S3 answers only 400 for expired credentials and 403
# for all others, without a reason.
_BY_WORDS = {
    r"ExpiredToken|TokenExpired|token (is|has) expired|RefreshError|invalid_grant|\(400\) when "
    r"calling the HeadObject": _EXPIRED,
    r"NoCredentialsError|Unable to locate credentials|DefaultCredentialsError|CredentialUnavail"
    r"able|169\.254\.169\.254|metadata\.google\.internal": _NO_CREDENTIALS,
    r"AccessDenied|InvalidAccessKeyId|InvalidToken|SignatureDoesNotMatch|AuthenticationFailed|"
    r"ClientAuthenticationError|AuthorizationPermissionMismatch|Invalid Credentials|"
    r"Anonymous caller|PermissionError|\b40[13],? (message=)?'?(Forbidden|Unauthorized)": _REFUSED,
    r"TooManyRedirects": _REDIRECTED,
    r"range is not satisfiable|InvalidRange|\b416\b": _EMPTY,
    r"FileNotFoundError|NoSuchBucket|NoSuchKey|ContainerNotFound|\b404 Not Found": _THERE,
    r"SlowDown|ServerBusy|\b(429|503) (Too Many|Service)": _BUSY,
    r"EndpointConnectionError|ConnectionError|ConnectorError|Timeout|timed out|"
    r"error sending request|dns error|Name or service not known": _ANSWER,
}

_ANSI_OR_TREE = re.compile(r"\x1b\[[0-9;]*m|[\u21b3\s]+")
_RUST_NUMBER = re.compile(r"(?:\(os error |Os \{ code: )(\d+)")


def explained(what: str, error: BaseException) -> str:
    """Return what failed, why, and the remedy if one is known, on one line.

    Delta Lake's errors come as a coloured tree, and some repeat secrets.
    """
    reason = _ANSI_OR_TREE.sub(" ", str(error)).strip() or type(error).__name__
    sentence = redacted(f"{what}: {reason}").strip()
    advice = remedy(error)
    return f"{sentence.removesuffix('.')}. {advice}" if advice else sentence


def remedy(error: BaseException) -> str:
    """Return the remedy for an error of a store, or "" if the error is not of a known kind."""
    causes = list(_causes(error))
    for number in map(_number, causes):
        if number in _BY_NUMBER:
            return _BY_NUMBER[number]
    words = " ".join(f"{' '.join(_type_names(cause))} {cause}" for cause in causes)
    return next((advice for told, advice in _BY_WORDS.items() if re.search(told, words)), "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _number(error: BaseException) -> int | None:
    """Return the operating system's error number, which Delta Lake gives only in its text."""
    found = _RUST_NUMBER.search(str(error))
    return int(found[1]) if found else getattr(error, "errno", None)


def _type_names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]
