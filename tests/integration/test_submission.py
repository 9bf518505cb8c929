"""Tests of a round as a job on a real cluster, started from the command line, with a token."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from baal_ray.config import RoundConfig
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri, scores_uri
from clusters import BIN, start_head, stop
from pools import round_config, table, write_pool

ROOT = Path(__file__).parents[2]
POOL, LABELLED, K = 300, 30, 10


@dataclass
class Cluster:
    """A head on this machine, and the environment of a client with access to it."""

    address: str
    gcs: str
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / command[0], *command[1:]],
            cwd=cwd,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=250,
        )

    def submit(
        self, config: str, round_id: str, *options: str, **environment: str
    ) -> tuple[int, str]:
        talker = Cluster(self.address, self.gcs, self.environment | environment)
        done = talker.run("baal-ray", "submit", config, "--round", round_id, *options)
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    home = Path(tempfile.mkdtemp(prefix="baal-", dir="/tmp"))  # a socket's path must be short
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",  # no activated environment: Ray is named by its path
        "RAY_AUTH_MODE": "token",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=environment, check=True)
    head = start_head(home, environment, "--dashboard-host=0.0.0.0")
    try:
        talker = environment | {"RAY_ADDRESS": head.dashboard}
        yield Cluster(head.dashboard, head.address, talker)
    finally:
        stop(head.process)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RoundConfig:
    """Write a pool, thirty labels and `jobs/round.yaml`, and return the configuration."""
    folder = tmp_path_factory.mktemp("submission")
    write_pool(folder, images=POOL)
    config = round_config(folder, selection={"k": K})
    (folder / "jobs").mkdir()
    written = yaml.safe_dump(config.model_dump(exclude_unset=True))
    (folder / "jobs" / "round.yaml").write_text(written)
    labelled = folder / "labelled.parquet"
    pq.write_table(table(0, LABELLED), labelled)
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        str(labelled),
        workspace=config.workspace,
        classes=config.classes,
    )
    return config


def test_a_dashboard_that_wants_a_token_is_told_from_one_that_does_not(cluster: Cluster):
    # test_doctor.py has a dashboard that wants none.
    imports = "import ray; from baal_ray.operations.dashboard_access import dashboard_answers; "
    ask = f"{imports}ray.init({cluster.gcs!r}); print(dashboard_answers())"
    asked = cluster.run("python", "-c", ask)
    assert "'holders of the token'" in asked.stdout


@pytest.mark.timeout(900)
def test_rounds_as_jobs(cluster: Cluster, config: RoundConfig):
    # One test covers it all, because a cluster takes seconds to start, and each job some more.
    pool = Path(config.pool.uri)
    path = str(pool.parent / "jobs" / "round.yaml")
    manifest = Manifest(manifest_uri(config.workspace))

    code, output = cluster.submit(path, "night-1", RAY_AUTH_TOKEN="wrong")
    assert code == 1
    assert "RAY_AUTH_TOKEN" in output
    assert "Traceback" not in output

    code, output = cluster.submit(path, "night-1", "--env", "STORE_KEY", STORE_KEY="of tests")
    assert code == 0, output
    assert "night-1-1 was submitted" in output
    assert "of tests" not in output
    assert "'env_vars': {'STORE_KEY': 'of tests'}" in cluster.run("ray", "job", "list").stdout
    assert output.count(f"{K} acquired by bald") == 1
    rows = manifest.rows(round_id="night-1")
    assert sorted(rows["rank"].to_pylist()) == list(range(1, K + 1))
    assert rows["score"].null_count == 0
    assert len(manifest.rows()) == LABELLED + K
    scores = pq.read_table(scores_uri(config.workspace))
    assert sorted(scores["id"].to_pylist()) == table(LABELLED, POOL)["id"].to_pylist()

    version = manifest.version
    code, output = cluster.submit(path, "night-1")
    assert code == 0, output
    assert "night-1-1 has already succeeded" in output
    assert manifest.version == version

    stop_in_the_fit(cluster, config)

    pool.rename(f"{pool}-of-tomorrow")
    for attempt in (1, 2):
        code, output = cluster.submit(path, "night-2")
        assert code == 1
        assert f"night-2-{attempt} was submitted" in output
        assert f"pool.uri is {config.pool.uri!r}" in output
        assert "Traceback" not in output

    Path(f"{pool}-of-tomorrow").rename(pool)
    page = (sys.executable, "jobs/nightly.py", "--config", path, "--round", "night-2")
    submitted = cluster.run("ray", "job", "submit", "--working-dir", str(ROOT), "--", *page)
    assert submitted.returncode == 0, submitted.stdout
    assert f"{K} acquired by bald" in submitted.stdout
    assert len(manifest.rows()) == LABELLED + 2 * K


def stop_in_the_fit(cluster: Cluster, config: RoundConfig) -> None:
    """Check that a job that `ray job stop` ends reports where it was, before Ray would kill it."""
    endless = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 10**6})}
    )
    path = Path(config.pool.uri).parent / "jobs" / "endless.yaml"
    path.write_text(yaml.safe_dump(endless.model_dump(mode="json")))
    with subprocess.Popen(
        [BIN / "baal-ray", "submit", path, "--round", "endless"],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as following:
        assert following.stdout is not None
        said = ""
        while "fit of 1000000 epochs" not in said:
            said += following.stdout.readline()
        (job,) = re.findall("job (baal-ray-.*-endless-1) was submitted", said)
        stopped = cluster.run("ray", "job", "stop", job)
        said += following.stdout.read()
    assert stopped.returncode == 0, stopped.stdout
    assert following.returncode == 1
    assert "Stopped: round endless has not finished its stage 'fit'. Run it again" in said
    assert f"job {job} stopped" in said
