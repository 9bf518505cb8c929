"""Tests that several machines share the scoring, and give the scores that one machine would."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import which

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from baal_ray.checkpoint import describe, save_checkpoint
from baal_ray.config import ModelConfig, ScoringConfig
from baal_ray.model import build_classifier
from baal_ray.scoring.job import ScoringJob
from baal_ray.workspace import checkpoint_uri
from pools import CLASSES, score_without_ray, table, write_pool

SUPPORT = Path(__file__).parents[1] / "support"
SCRIPT = SUPPORT / "several_nodes.py"
IMAGES, BATCH_SIZE = 1_200, 32


def test_on_three_nodes_more_actors_join_and_the_scores_are_those_of_one(tmp_path: Path) -> None:
    passes = score(tmp_path, [], actors=1, most=3)
    assert len(passes) > 1  # some leave again and others come
    check_scores(tmp_path)


@pytest.mark.skipif(
    not which("ip") or subprocess.run(["unshare", "--net", "true"], check=False).returncode != 0,
    reason="hosts with networks of their own take root's rights, and Debian's iproute2",
)
def test_on_three_hosts_the_scores_are_those_of_one_and_shares_are_even(tmp_path: Path) -> None:
    passes = score(tmp_path, [str(SUPPORT / "several_hosts.sh")], actors=3, most=3)
    assert len(passes) == 3
    # Of twelve files of a hundred images, an actor has one more or less.
    assert min(passes) > 0.5 * max(passes)
    check_scores(tmp_path)


def score(folder: Path, prefix: list[str], actors: int, most: int) -> list[int]:
    """Score a pool in a folder, and return the passes of each process."""
    write_pool(folder, images=IMAGES)
    (folder / "checkpoint").write_text(saved_model(folder, folder, seconds=0.1))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory(prefix="baal-", dir="/tmp") as home:
        done = subprocess.run(
            [*prefix, sys.executable, SCRIPT, folder, str(actors), str(most)],
            env=os.environ | {"HOME": home, "PATH": path},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    return [int(passes) for passes in done.stdout.splitlines()[-1].split()]


def check_scores(folder: Path) -> None:
    """Hold them against what one process scores."""
    scores = pq.read_table(folder / "scores").to_pandas().set_index("id").sort_index()
    quick = saved_model(folder / "quick", folder, seconds=0)
    config = ScoringConfig(samples=4, batch_size=BATCH_SIZE)
    job = ScoringJob(quick, config, model=describe(quick).model)
    with pytest.warns(RuntimeWarning, match="cannot be traced"):
        expected = score_without_ray(table(0, IMAGES), job)
    pd.testing.assert_frame_equal(
        scores.drop(columns="source"), expected.drop(columns="source"), check_exact=True
    )


def saved_model(workspace: Path, folder: Path, seconds: float) -> str:
    """Save a checkpoint that always has the same weights, and return its URI."""
    torch.manual_seed(0)
    arguments = {"folder": str(folder), "seconds": seconds}
    model = ModelConfig(image_size=[12, 12], factory="pools:Slow", arguments=arguments)
    classifier = build_classifier(model, len(CLASSES))
    sha256 = save_checkpoint(str(workspace), classifier, model, CLASSES)
    return checkpoint_uri(str(workspace), sha256)
