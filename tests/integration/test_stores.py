"""Tests of whole rounds with everything on S3: pool, evaluation set and workspace."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.driver import RoundResult, run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.selection import top_k
from baal_ray.training.fit import fit_model
from baal_ray.workspace import manifest_uri, round_uri
from faulty_s3 import FaultyS3
from pools import round_config, table, write_labelled, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")

RUN = "import sys; from baal_ray.cli import main; main(['run', sys.argv[1], '--round', 'later'])"


def upload(path: str | Path, uri: str) -> str:
    storage.publish(uri, Path(path).read_bytes())
    return uri


@pytest.fixture(scope="module")
def images(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upload a pool of 100 and an evaluation set, and return a folder with a labelled set."""
    folder = tmp_path_factory.mktemp("stores")
    for path in Path(write_pool(folder, images=100, per_file=50)).iterdir():
        upload(path, f"{bucket}/{folder.name}/pool/{path.name}")
    upload(write_labelled(folder, 7000, 21), f"{bucket}/{folder.name}/evaluation.parquet")
    write_labelled(folder)
    return folder


def new_workspace(bucket: str, images: Path, name: str, **sections: Any) -> RoundConfig:
    """Create a workspace with thirty labelled images, and return the configuration of a round."""
    root = f"{bucket}/{images.name}"
    config = round_config(
        images,
        workspace=f"{root}/{name}",
        pool={"uri": f"{root}/pool"},
        training={"evaluation_set": f"{root}/evaluation.parquet"},
        **sections,
    )
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        str(images / "labelled-9000.parquet"),
        workspace=config.workspace,
        classes=config.classes,
    )
    return config


def picks(config: RoundConfig) -> list[tuple[str, int]]:
    rows = Manifest(manifest_uri(config.workspace)).rows(round_id="night").sort_by("rank")
    return list(zip(rows["id"].to_pylist(), rows["rank"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def undisturbed(bucket: str, images: Path) -> tuple[RoundConfig, RoundResult]:
    config = new_workspace(bucket, images, "undisturbed")
    return config, run_round(config, "night")


def test_a_round_fits_scores_and_acquires(undisturbed: tuple[RoundConfig, RoundResult]) -> None:
    config, result = undisturbed
    assert (result.labels, result.scored, result.acquired) == (30, 100, 10)
    assert result.metrics["images"] == 21
    assert [rank for _, rank in picks(config)] == list(range(1, 11))
    done = json.loads(storage.read(f"{round_uri(config.workspace, 'night')}/round.json"))
    scores = [
        pq.read_table(path, filesystem=fs)
        for fs, path in map(storage.arrow_filesystem, storage.list_files(done["scores"]))
    ]
    ids = [image_id for part in scores for image_id in part["id"].to_pylist()]
    assert sorted(ids) == table(0, 100)["id"].to_pylist()


def test_the_same_round_again_writes_nothing(
    undisturbed: tuple[RoundConfig, RoundResult], faulty_s3: FaultyS3
) -> None:
    config, _ = undisturbed
    assert run_round(config, "night").committed_before
    assert faulty_s3.requests
    assert {request.split()[0] for request in faulty_s3.requests} <= {"GET", "HEAD"}


def test_a_fit_whose_worker_dies_goes_on_from_the_epoch_on_the_store(
    bucket: str, images: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "died"
    config = new_workspace(
        bucket,
        images,
        "worker",
        model={"factory": "pools:Mortal", "arguments": {"marker": str(marker)}},
        resources={"training_workers": 1},
    )
    labelled = Manifest(manifest_uri(config.workspace)).labelled()
    fit = fit_model(config, labelled)
    assert [epoch["epoch"] for epoch in fit.history] == [1, 2, 3]
    assert fit_model(config, labelled).reused
    # Four steps per epoch: ten before the kill, and all but the first epoch's after it.
    assert len(marker.with_suffix(".steps").read_text().splitlines()) == 10 + 8


def test_a_driver_killed_at_its_writes_makes_the_same_picks(
    bucket: str,
    images: Path,
    undisturbed: tuple[RoundConfig, RoundResult],
    faulty_s3: FaultyS3,
) -> None:
    # It is killed before its scores are noted, and after its commit, but before it knows of that.
    # The round after the undisturbed one, so that the pool is scored already.
    config, _ = undisturbed
    path = images / "killed.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    put = f"PUT /{config.workspace.removeprefix('s3://')}/"
    for fault, what in [
        ("refused", "rounds/later/scores.json"),
        ("lost", "manifest/_delta_log/00000000000000000003.json"),
    ]:
        driver = subprocess.Popen([sys.executable, "-c", RUN, str(path)], env=environment)
        faulty_s3.set_fault(fault, 0, put + what, also=driver.kill)
        assert driver.wait(120) == -signal.SIGKILL, what
    faulty_s3.set_fault(None)
    assert run_round(config, "later").acquired == 10
    manifest = Manifest(manifest_uri(config.workspace))
    later = manifest.rows(round_id="later").sort_by("rank")["id"].to_pylist()
    night = [image_id for image_id, _ in picks(config)]
    record = json.loads(storage.read(f"{round_uri(config.workspace, 'later')}/round.json"))
    assert [*night, *later] == top_k(record["scores"], 20)["id"].to_pylist()
    # The empty table is 0, the labelled images are 1, and the undisturbed round is 2.
    assert manifest.version == 3
