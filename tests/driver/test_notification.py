"""Tests of notifications, with real commands and a real HTTP server."""

import json
import socket
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from baal_ray.config import NotifyConfig
from baal_ray.driver.notification import notify, notifying_of_failure


@pytest.fixture
def webhook():
    """Yield a server that keeps what is posted to it, and answers with `status`."""

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.posted.append(json.loads(body))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        server.posted, server.status = [], 200
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def url_of(server):
    return f"http://127.0.0.1:{server.server_port}/hooks/s3cret"


def keeping(path):
    """Return a command that writes its input to a file."""
    keep = f"import sys; open({str(path)!r}, 'w').write(sys.stdin.read())"
    return [sys.executable, "-c", keep]


def test_command_and_url_get_the_same_message(webhook, tmp_path):
    config = NotifyConfig(command=keeping(tmp_path / "told"), url=url_of(webhook))
    notify(config, "night", "committed", "10 acquired")
    expected = {
        "round": "night",
        "outcome": "committed",
        "text": "baal_ray round night: 10 acquired",
    }
    assert webhook.posted == [expected]
    assert json.loads((tmp_path / "told").read_text()) == expected


def test_an_error_is_told_and_raised(webhook):
    config = NotifyConfig(url=url_of(webhook))
    with pytest.raises(ValueError, match="too late"), notifying_of_failure(config, "night"):
        raise ValueError("too late")
    (told,) = webhook.posted
    assert (told["outcome"], told["text"]) == ("failed", "baal_ray round night: too late")


def test_nobody_is_told_of_a_round_that_does_not_fail(webhook):
    with notifying_of_failure(NotifyConfig(url=url_of(webhook)), "night"):
        pass
    assert webhook.posted == []


def test_a_failure_to_tell_is_logged_without_the_secret(webhook, caplog):
    webhook.status = 500
    missing = ["/no/such/command", "s3cret"]
    failing = [sys.executable, "-c", "raise SystemExit(3)", "s3cret"]
    for config in (
        NotifyConfig(url=url_of(webhook)),
        NotifyConfig(url="http://127.0.0.1:1/s3cret"),
        NotifyConfig(command=missing),
        NotifyConfig(command=failing),
    ):
        notify(config, "night", "committed", "10 acquired")
    assert [record.getMessage() for record in caplog.records] == [
        "notify.url failed: HTTP Error 500: Internal Server Error",
        "notify.url failed: <urlopen error [Errno 111] Connection refused>",
        "notify.command failed: [Errno 2] No such file or directory: '/no/such/command'",
        "notify.command failed with exit code 3",
    ]


@pytest.fixture
def no_http():
    """Yield the URL of a server that answers, but not in HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with suppress(OSError), server.accept()[0] as connection:  # nobody may come
                connection.recv(1000)
                connection.sendall(b"220 smtp.example.com\r\n")

        Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/s3cret"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/s3cret token",
        "http://127.0.0.1/s3cret\u00e9",
        "http://127.0.0.1:port/s3cret",
        "http://[::1/s3cret",
        None,
    ],
)
def test_whatever_is_wrong_with_a_url_the_round_goes_on(url, no_http, caplog):
    notify(NotifyConfig(url=url or no_http), "night", "committed", "10 acquired")
    assert "notify.url failed" in caplog.text
    assert "s3cret" not in caplog.text
