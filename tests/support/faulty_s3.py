"""An S3 server with faults: a proxy before a real one that loses requests and answers."""

import threading
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["refused", "lost", "gone"]


class FaultyS3(ThreadingHTTPServer):
    """A proxy that passes requests on one at a time, because moto's conditional writes lose races.

    Attributes:
        endpoint: URL for clients.
        requests: Requests since the last fault was set, such as "PUT /bucket/key".
        strip: Request headers, in lower case, that never arrive. Without `if-none-match` this is a
            store that ignores the condition of conditional writes.
    """

    daemon_threads = True

    def __init__(self, upstream: str, *, strip: frozenset[str] = frozenset()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.strip = strip
        self.upstream = urlsplit(upstream).netloc
        self.one_at_a_time = threading.Lock()
        self.set_fault(None)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def set_fault(
        self,
        fault: Fault | None,
        number: int = 0,
        prefix: str = "",
        also: Callable[[], object] = lambda: None,
    ) -> None:
        """Choose the fault of a later request.

        Args:
            fault: `refused`: the connection breaks before the server has the request. `lost`: the
                server does it, and the connection breaks before the client has the answer.
                `gone`: this request and all that follow are refused.
            number: Number of the request, counted from 0 among those that start with `prefix`.
            prefix: Start of the request, such as "PUT /bucket/workspace/manifest".
            also: Function that is called at the fault, just before the connection breaks.
        """
        self.requests: list[str] = []
        self.also = also
        self._fault, self._number, self._prefix = fault, number, prefix
        self._counted = 0

    def fault_of(self, request: str) -> Fault | None:
        """Record a request, and return its fault."""
        with self.one_at_a_time:
            self.requests.append(request)
            if not request.startswith(self._prefix):
                return None
            number, self._counted = self._counted, self._counted + 1
        hit = number >= self._number if self._fault == "gone" else number == self._number
        return self._fault if hit else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would hold each answer's body back for 40 ms
    server: FaultyS3

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.fault_of(f"{self.command} {self.path}")
        if fault in (None, "lost"):
            with self.server.one_at_a_time:
                answer, content = self._ask(body)
        if fault is None:
            self._pass_on(answer, content)
        else:
            self.server.also()
            self.close_connection = True  # without a word

    do_DELETE = do_HEAD = do_POST = do_PUT = do_GET

    def _ask(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(self.server.upstream, timeout=60)
        dropped = {"connection", *self.server.strip}
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        connection.request(self.command, self.path, body, headers | {"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def _pass_on(self, answer: HTTPResponse, content: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        hop = ("connection", "content-length", "transfer-encoding")
        for name, value in answer.getheaders():
            if name.lower() not in hop:
                self.send_header(name, value)
        length = answer.getheader("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
