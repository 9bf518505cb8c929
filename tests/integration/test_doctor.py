"""Tests of the whole `baal-ray doctor`, where all is well and where much is not."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clusters import BIN, Head, start_head, stop
from pools import round_config, table, write_labelled, write_pool

CHECK_WORKSPACE = """
import sys
from baal_ray.errors import StorageError
from baal_ray.cluster import check_workspace
for workspace in sys.argv[1:]:
    try:
        print(check_workspace(workspace), "nodes")
    except StorageError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    home = tempfile.mkdtemp(prefix="baal-", dir="/tmp")  # a socket's path must be short
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    yield kept | {
        "HOME": home,
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": home,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    shutil.rmtree(home, ignore_errors=True)


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / command[0], *command[1:]],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )


def findings(printed: str) -> dict[str, tuple[str, str]]:
    """Return the outcome and text of each check, in the order in which they were printed."""
    found: dict[str, tuple[str, str]] = {}
    for line in printed.splitlines():
        outcome, check, text = line[:6].strip(), line[8:22].strip(), line[24:].strip()
        if check:
            found[check] = (outcome, text)
        else:
            last = [*found][-1]
            found[last] = (found[last][0], f"{found[last][1]} {text}")
    return found


def written(folder: Path, **sections: object) -> str:
    path = folder / "round.yaml"
    config = round_config(folder, **sections)
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    return str(path)


def test_where_all_is_well(tmp_path: Path, environment: dict[str, str]):
    write_pool(tmp_path)
    evaluation_set = write_labelled(tmp_path)
    leaked = pq.read_table(evaluation_set).slice(0, 1).select(["id", "image"])
    pq.write_table(leaked, tmp_path / "pool" / "leaked.parquet")
    config = written(tmp_path, training={"evaluation_set": evaluation_set})
    done = run(environment, "baal-ray", "doctor", config)
    found = findings(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {outcome for outcome, _ in found.values()} == {"ok"}, done.stdout
    assert list(found) == [
        "configuration",
        "Ray",
        "workspace",
        "racing creates",
        "manifest",
        "evaluation set",
        "pool",
        "labelled set",
        "model",
        "decoder",
        "cluster",
        "nodes",
        "dashboard",
    ]
    assert len(done.stdout.splitlines()) == len(found)
    assert found["pool"][1] == (
        "301 images with unique ids; 0 of 49 sampled cannot be decoded; 1 are evaluation images "
        "by id, and 1 of the sampled by their bytes: a round leaves them out"
    )
    assert found["labelled set"][1] == "0 images"
    assert found["evaluation set"][1] == (
        "30 images of 3 classes; 0 of 16 sampled cannot be decoded"
    )
    assert found["nodes"][1] == "there is only this machine"
    assert found["dashboard"][1].startswith("127.0.0.1:")
    assert done.stderr == ""
    assert os.listdir(tmp_path / "workspace") == []


@dataclass(frozen=True)
class HalfBlind:
    """A cluster of two nodes. On the second node, `hidden` is another folder."""

    head: Head
    hidden: Path
    environment: dict[str, str]


@pytest.fixture
def half_blind(tmp_path: Path, environment: dict[str, str]) -> Iterator[HalfBlind]:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    own_mounts = ["unshare", "--mount", "sh", "-ec"]
    mount = f"mount -t tmpfs none {hidden}"
    if subprocess.run([*own_mounts, mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a folder of its own over another")
    head = start_head(Path(environment["HOME"]), environment, "--dashboard-host=0.0.0.0")
    ray_start = f"{BIN}/ray start --block --num-cpus=1 --address={head.address}"
    node = subprocess.Popen(
        [*own_mounts, f"{mount}; exec {ray_start} --object-store-memory=100000000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    connected = environment | {"RAY_ADDRESS": head.address}
    try:
        wait_for_nodes(2, connected)
        yield HalfBlind(head, hidden, connected)
    finally:
        stop(node)
        stop(head.process)


def wait_for_nodes(count: int, environment: dict[str, str]) -> None:
    """Wait for nodes in a process of its own, as this one may belong to another cluster."""
    code = f"""
import time, ray
ray.init()
while sum(node["Alive"] for node in ray.nodes()) < {count}:
    time.sleep(0.2)
"""
    done = run(environment, "python", "-c", code)
    assert done.returncode == 0, done.stderr


def test_where_much_is_wrong(half_blind: HalfBlind):
    # One test covers it all, because a cluster takes seconds to start.
    seen = half_blind.hidden.parent / "seen"
    asked = run(
        half_blind.environment,
        "python",
        *("-c", CHECK_WORKSPACE, str(seen), str(half_blind.hidden), "memory://workspace"),
    )
    shared, apart, memory = asked.stdout.splitlines()
    assert shared == "2 nodes"
    assert apart.startswith("1 of 2 nodes do not see what the driver wrote to the workspace")
    assert "No such file" in apart
    assert "memory of one process" in memory

    hidden = half_blind.hidden
    images = table(0, 40).select(["id", "image"])
    torn = pa.array([image.as_py()[:50] for image in images["image"]], pa.binary())
    pool = hidden.parent / "pool.parquet"
    pq.write_table(images.set_column(1, "image", torn), pool)
    config = written(
        hidden,
        classes=["left", "middle", "other"],
        pool={"uri": str(pool)},
        model={"factory": "resnet18"},
        resources={"scoring_actors": 100},
        training={"evaluation_set": write_labelled(hidden)},
    )
    done = run(half_blind.environment, "baal-ray", "doctor", config)
    found = findings(done.stdout)
    assert done.returncode == 1, done.stderr
    told = {check: text for check, (outcome, text) in found.items() if outcome == "FAILED"}
    assert list(told) == ["evaluation set", "pool", "model", "cluster", "nodes", "dashboard"]
    assert "PNG of 50 bytes is truncated" in told["pool"]
    assert "label 'right' is not one of the 3 classes" in told["evaluation set"]
    assert "dropout" in told["model"]
    assert "scoring (100 actors" in told["cluster"]
    assert "1 of 2 nodes" in told["nodes"]
    assert "answers everybody" in told["dashboard"]
    assert {outcome for check, (outcome, _) in found.items() if check not in told} == {"ok"}
