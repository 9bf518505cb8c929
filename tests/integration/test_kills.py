"""Tests of rounds whose driver is really killed and run again: the outcome stays the same.

benchmarks/faults/kills.py does this at every write, every call and at random moments.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import ray
import yaml

from baal_ray.config import RoundConfig
from baal_ray.driver import run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri
from pools import round_config, write_labelled, write_pool

FAULTS = Path(__file__).parents[1] / "support" / "faults.py"

# Writes of a round's driver: proof that nodes share the workspace, the plan, the state of the fit,
# the checkpoint's two files, the fit's record, removal of its state, the results of fit, scores
# and batch with the scores' fingerprint, the commit, round.json and the report.
WRITES = 14
# The same if an earlier round has fitted on the same labels and scored the pool: proof, plan, fit,
# fingerprint, scores, batch, commit, round.json and report.
COMMIT, ROUND_RECORD = 7, 8


@pytest.fixture(scope="module")
def environment(ray_cluster: None) -> dict[str, str]:
    """Return the environment of a driver that joins the tests' cluster."""
    return os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pool of 120 and a workspace with 30 labels, but no round."""
    folder = tmp_path_factory.mktemp("prepared")
    write_pool(folder, images=120)
    config = round_config(folder)
    labelled = write_labelled(folder)
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        labelled,
        workspace=config.workspace,
        classes=config.classes,
    )
    return folder


@pytest.fixture
def config(prepared: Path, tmp_path: Path) -> RoundConfig:
    """Return a round in a copy of the prepared workspace, over the same pool."""
    shutil.copytree(prepared / "workspace", tmp_path / "workspace")
    pool = {"uri": str(prepared / "pool")}
    config = round_config(tmp_path, pool=pool)
    write_config(config)
    return config


def write_config(config: RoundConfig) -> None:
    path = Path(config.workspace).parent / "round.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))


def command(config: RoundConfig, round_id: str, *moment: str) -> list[str]:
    path = str(Path(config.workspace).parent / "round.yaml")
    return [sys.executable, str(FAULTS), path, round_id, *moment]


def run(
    config: RoundConfig, environment: dict[str, str], *moment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, "night", *moment), env=environment, capture_output=True, text=True
    )


def outcome(config: RoundConfig) -> dict[str, pd.DataFrame]:
    """Return the traces of a round: its rows in the manifest, its batch and its scores."""
    rows = Manifest(manifest_uri(config.workspace)).rows().to_pandas()
    rows = rows.drop(columns=["acquired_at", "labelled_at"]).sort_values("id")
    batch = pq.read_table(Path(config.workspace, "rounds", "night", "batch")).to_pandas()
    scores = pq.read_table(Path(config.workspace, "scores")).to_pandas()
    return {
        "manifest": rows.reset_index(drop=True),
        "batch": batch.sort_values("rank").reset_index(drop=True),
        "scores": scores.sort_values("id").reset_index(drop=True),
    }


@pytest.fixture(scope="module")
def undisturbed(
    prepared: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> RoundConfig:
    """Return the configuration of a round that was not disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(prepared / "workspace", folder / "workspace")
    config = round_config(folder, pool={"uri": str(prepared / "pool")})
    write_config(config)
    done = run(config, environment)
    assert done.returncode == 0, done.stderr
    writes, _ = done.stdout.splitlines()[-1].split()
    # Fewer would mean that faults.py no longer sees all of them, and that kills go untested.
    assert int(writes) == WRITES
    return config


def check_outcome(found: dict[str, pd.DataFrame], undisturbed: RoundConfig) -> None:
    for name, table in outcome(undisturbed).items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


@pytest.mark.parametrize("write", [COMMIT, ROUND_RECORD], ids=["commit", "round.json"])
def test_a_driver_killed_at_a_write_leaves_a_round_that_goes_on(
    config: RoundConfig, environment: dict[str, str], undisturbed: RoundConfig, write: int
) -> None:
    for folder in ("checkpoints", "fits", "scores"):
        shutil.copytree(Path(undisturbed.workspace, folder), Path(config.workspace, folder))
    killed = run(config, environment, "kill", str(write))
    assert killed.returncode == -signal.SIGKILL
    committed = Manifest(manifest_uri(config.workspace)).rows(round_id="night").num_rows
    assert committed == (0 if write == COMMIT else 10)
    assert Path(config.workspace, "rounds", "night", "batch.json").exists()
    assert not Path(config.workspace, "rounds", "night", "round.json").exists()
    assert run_round(config, "night").acquired == 10
    check_outcome(outcome(config), undisturbed)


@pytest.mark.parametrize("machines", [1, 2])
def test_two_drivers_of_one_round_commit_it_once(
    config: RoundConfig,
    environment: dict[str, str],
    undisturbed: RoundConfig,
    tmp_path: Path,
    machines: int,
) -> None:
    # On one machine the second driver waits. On two it sees no lock, so both do the work.
    # Two actors of a whole CPU would leave none to read images, and wait for ever.
    resources = config.resources.model_copy(update={"scoring_cpus": 0.5})
    write_config(config.model_copy(update={"resources": resources}))
    both = []
    for number in range(2):
        locks = tmp_path / f"locks-{number % machines}"
        locks.mkdir(exist_ok=True)
        both.append(
            subprocess.Popen(
                command(config, "night"),
                env=environment | {"TMPDIR": str(locks)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        told = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], told
    committed = ["10 acquired by bald" in text for text, _ in told]
    before = ["already committed: nothing to do" in text for text, _ in told]
    assert sorted(committed) == sorted(before) == [False, True]
    waited = ["another process is working on" in errors for _, errors in told]
    assert sum(waited) == (1 if machines == 1 else 0)
    found = outcome(config)
    found["scores"] = found["scores"].drop_duplicates("id", ignore_index=True)
    check_outcome(found, undisturbed)
