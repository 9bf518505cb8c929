"""Run rounds on S3 in which one request fails, and check that each ends in the same picks.

Run `PYTHONPATH=tests/support python benchmarks/faults/store_faults.py --step 7` for every seventh
request.

Three faults take turns. The request never arrives (refused). It is done, and its answer is lost.
Or the store is gone from then on, until the round has failed and is run again. The driver's
clients do not retry a request, so that each fault reaches our code. Those of Ray's workers retry
as always. All requests go through the proxy that makes the faults.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import boto3
import ray
import s3fs
from moto.server import ThreadedMotoServer

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.driver import run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri
from faulty_s3 import FaultyS3
from pools import round_config, write_labelled, write_pool

FAULTS = ("refused", "lost", "gone")
BUCKET = "s3://bucket"

Outcome = tuple[list[str], int]


def start_store() -> FaultyS3:
    """Start moto behind the proxy, and point every client of this process and of Ray at it."""
    moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    moto.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = FaultyS3(f"http://127.0.0.1:{moto.get_host_and_port()[1]}")
    os.environ |= {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    s3fs.S3FileSystem.retries = 1
    boto3.client("s3").create_bucket(Bucket="bucket")
    return server


def new_workspace(folder: Path, name: str) -> RoundConfig:
    """Create a workspace with thirty labelled images, and return a round over a pool of sixty."""
    config = round_config(folder, workspace=f"{BUCKET}/{name}", pool={"uri": f"{BUCKET}/pool"})
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        str(folder / "labelled-9000.parquet"),
        workspace=config.workspace,
        classes=config.classes,
    )
    return config


def outcome(config: RoundConfig) -> Outcome:
    """Return the picks in their order, and the manifest's version."""
    manifest = Manifest(manifest_uri(config.workspace))
    rows = manifest.rows(round_id="night").sort_by("rank")
    return rows["id"].to_pylist(), manifest.version


def run_to_its_end(server: FaultyS3, config: RoundConfig) -> int:
    """Run the round, and again without the fault if it fails. Return the number of runs."""
    try:
        run_round(config, "night")
    except Exception as error:  # noqa: BLE001  # whatever a lost request ends in
        print(f"    {type(error).__name__}: {str(error).splitlines()[-1][:100]}", file=sys.stderr)
        server.set_fault(None)
        run_round(config, "night")
        return 2
    server.set_fault(None)
    return 1


def undisturbed(server: FaultyS3, folder: Path) -> tuple[list[str], Outcome]:
    """Return the requests of an undisturbed round, and its outcome."""
    config = new_workspace(folder, "undisturbed")
    server.set_fault(None)
    run_round(config, "night")
    requests = list(server.requests)
    verbs = dict(Counter(request.split()[0] for request in requests))
    print(f"{len(requests)} requests in a round: {verbs}", flush=True)
    return requests, outcome(config)


def disturb(server: FaultyS3, folder: Path, step: int) -> None:
    """Run a round per request, and stop at the first whose outcome differs."""
    requests, expected = undisturbed(server, folder)
    begun, rounds = time.monotonic(), Counter[tuple[str, int]]()
    for turn, number in enumerate(range(0, len(requests), step)):
        config = new_workspace(folder, f"night-{number}")
        fault = FAULTS[turn % len(FAULTS)]
        server.set_fault(fault, number)
        runs = run_to_its_end(server, config)
        if outcome(config) != expected:
            sys.exit(f"{fault} at request {number}, {requests[number]}: {outcome(config)}")
        rounds[fault, runs] += 1
    for (fault, runs), count in sorted(rounds.items()):
        print(
            f"{fault:8} {count:4} rounds with the same {len(expected[0])} picks after {runs} runs"
        )
    seconds = time.monotonic() - begun
    print(f"{rounds.total()} faults in {seconds:.0f} s: the same ids at the same ranks each time,")
    print(f"and the manifest at version {expected[1]}: committed once")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One request of a round after another fails.")
    parser.add_argument("--step", type=int, default=1, help="try one request out of this many")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_labelled(Path(name))
        store = start_store()
        for path in Path(write_pool(Path(name), images=60, per_file=30)).iterdir():
            storage.publish(f"{BUCKET}/pool/{path.name}", path.read_bytes())
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        disturb(store, Path(name), arguments.step)
