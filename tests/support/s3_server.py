"""moto's S3 on a port of this machine, in a process of its own.

Delta Lake's `history` keeps Python's global lock while it reads. A server in the process of the
tests would therefore block for three minutes, until that read gives up.
"""

import sys
import threading
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

one_at_a_time = threading.Lock()


class Serialized(DomainDispatcherApplication):
    """An S3 whose conditional writes are atomic, as in S3 itself. In moto's threads they race."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with one_at_a_time:
            return super().__call__(environ, start_response)


if __name__ == "__main__":
    WSGIRequestHandler.disable_nagle_algorithm = True  # 40 ms a body
    run_simple("127.0.0.1", int(sys.argv[1]), Serialized(create_backend_app), threaded=True)
