"""moto's S3 on a port of this machine, in a process of its own.

In that of the tests it would wait for Delta Lake's `history`, which keeps Python's global lock
while it reads, for the three minutes until that gives up.
"""

import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, run_simple

one_at_a_time = threading.Lock()


class Serialized(DomainDispatcherApplication):
    """Conditional writes are atomic in S3, and race in moto's threads."""

    def __call__(self, *request):
        with one_at_a_time:
            return super().__call__(*request)


if __name__ == "__main__":
    WSGIRequestHandler.disable_nagle_algorithm = True  # 40 ms a body
    run_simple("127.0.0.1", int(sys.argv[1]), Serialized(create_backend_app), threaded=True)
