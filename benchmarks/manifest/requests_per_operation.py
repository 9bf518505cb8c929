"""Count the requests to S3 that operations on the manifest take, by the number of rounds.

Run `PYTHONPATH=tests/support python benchmarks/manifest/requests_per_operation.py`.

A round acquires twenty images, and their labels come in at once. There are three ways: neither
checkpoints of the log nor compaction, checkpoints alone, and both, as `baal-ray run` does. The
rounds run on a disk, and those that are counted on a copy in the store as well.

`rows` is what `baal-ray status` and `labels export` read of the manifest, `history` what an audit
reads, and `compact` what a round adds at its end. In the ninth round there is something to do.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import boto3
import pyarrow as pa

from baal_ray.manifest import Manifest
from baal_ray.manifest.versioned_table import VersionedTable

PICKS = 20
ROW = "{:>6} {:>11} {:>8} {:>6} {:>9} {:>5} {:>8} {:>8}"

Count = Callable[[Callable[[], object]], int]


@contextmanager
def counting_store() -> Iterator[Count]:
    """Start an S3 with a bucket, and yield a function that counts the requests of a call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "requests.txt")
        log.touch()

        def count(act: Callable[[], object]) -> int:
            before = log.read_bytes().count(b"\n")
            act()
            return log.read_bytes().count(b"\n") - before

        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("counting_s3.py")), str(port), str(log)],
            stderr=subprocess.DEVNULL,
        )
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "10",  # the server takes a few seconds to start
        }
        try:
            boto3.client("s3").create_bucket(Bucket="bucket")
            yield count
        finally:
            server.kill()
            server.wait()


def copy_to_store(folder: str, prefix: str) -> Manifest:
    """Copy a table from a disk to the store. Its log names files relative to it."""
    client = boto3.client("s3")
    for path in Path(folder).rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(folder)}"
            client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
    # With options of its own it does not try the store before its first commit.
    return Manifest(f"s3://bucket/{prefix}", storage_options={})


def requests_of_round(count: Count, manifest: Manifest, number: int) -> list[int]:
    """Run a round, and return the requests of its changes and of reads after it."""
    picks = pa.table({"id": [f"{number}-{pick}.jpg" for pick in range(PICKS)]})
    labels = picks.append_column("label", [["cat"] * PICKS])
    return [
        count(act)
        for act in (
            lambda: manifest.acquire(picks, f"round-{number}"),
            lambda: manifest.label(labels),
            manifest.labelled,
            manifest.rows,
            manifest.history,
            manifest.compact,
        )
    ]


def run_rounds(count: Count, way: str, rounds: list[int]) -> None:
    """Run rounds on a disk, and some of them also on a copy in the store, and print these."""
    with tempfile.TemporaryDirectory() as folder:
        local = Manifest(folder)
        for number in range(1, max(rounds) + 1):
            if number in rounds:
                there = copy_to_store(folder, f"{way}/{number}")
                requests = requests_of_round(count, there, number)
                shown = requests if way == "both" else [*requests[:-1], ""]
                print(ROW.format(number, way, *shown), flush=True)
            picks = pa.table({"id": [f"{number}-{pick}.jpg" for pick in range(PICKS)]})
            local.acquire(picks, f"round-{number}")
            local.label(picks.append_column("label", [["cat"] * PICKS]))
            if way == "both":
                local.compact()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Requests per operation on the manifest.")
    parser.add_argument("--rounds", type=int, nargs="+", default=[1, 9, 10, 50, 150])
    rounds = parser.parse_args().rounds
    print(
        ROW.format(
            "rounds", "way", *["acquire", "label", "labelled", "rows", "history", "compact"]
        )
    )
    with counting_store() as count:
        with patch.object(VersionedTable, "checkpoint_if_due"):
            run_rounds(count, "neither", rounds)
        run_rounds(count, "checkpoints", rounds)
        run_rounds(count, "both", rounds)
