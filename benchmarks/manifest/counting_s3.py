"""moto's S3 with a log of its requests, a line per request.

python counting_s3.py PORT LOG

It runs in a process of its own, because Delta Lake's `history` keeps Python's global lock while it
waits for answers.
"""

import sys
from typing import Any

from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

from s3_server import Serialized


class Counted(Serialized):
    """An S3 that appends a line per request to a file, such as "GET /bucket/key"."""

    def __init__(self, log: str) -> None:
        super().__init__(create_backend_app)
        self._log = open(log, "a", buffering=1)  # noqa: SIM115  # open as long as the server is

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Log a request and answer it."""
        self._log.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}\n")
        return super().__call__(environ, start_response)


if __name__ == "__main__":
    WSGIRequestHandler.disable_nagle_algorithm = True  # 40 ms a body
    run_simple("127.0.0.1", int(sys.argv[1]), Counted(sys.argv[2]), threaded=True)
