"""Notifications that a round has ended or failed, sent to a command or a URL."""

import json
import logging
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException

from baal_ray.config import NotifyConfig

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS = 30


@contextmanager
def notifying_of_failure(config: NotifyConfig, round_id: str) -> Iterator[None]:
    """Send a notification of an error that ends a round, and raise it unchanged."""
    try:
        yield
    except Exception as error:
        notify(config, round_id, "failed", str(error) or type(error).__name__)
        raise


def notify(config: NotifyConfig, round_id: str, outcome: str, text: str) -> None:
    """Send a message to the configured command and URL. A failure is logged, never raised.

    The message is JSON with `round`, `outcome` and `text`; Slack and Mattermost show `text`. The
    command reads it from its standard input. The URL receives it as the body of a POST.

    Args:
        config: Command and URL to notify.
        round_id: Name of the round.
        outcome: "committed", "nothing to do" or "failed".
        text: Text of the message.
    """
    text = f"baal_ray round {round_id}: {text}"
    message = json.dumps({"round": round_id, "outcome": outcome, "text": text}).encode()
    if config.command is not None:
        with _logged("notify.command"):
            subprocess.run(config.command, input=message, check=True, timeout=_PATIENCE_SECONDS)
    if config.url is not None:
        headers = {"Content-Type": "application/json"}
        with _logged("notify.url"):
            request = urllib.request.Request(config.url, message, headers)
            urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS).close()


@contextmanager
def _logged(channel: str) -> Iterator[None]:
    """Log a failure without the command or URL, which may hold a secret."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        logger.warning("%s failed with exit code %d", channel, error.returncode)
    except subprocess.TimeoutExpired:
        logger.warning("%s did not finish within %d s", channel, _PATIENCE_SECONDS)
    except OSError as error:  # including those of urllib
        logger.warning("%s failed: %s", channel, error)
    except (ValueError, HTTPException) as error:  # they quote the URL
        logger.warning("%s failed with %s", channel, type(error).__name__)
