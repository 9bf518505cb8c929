"""Several machines score what one would, and share the work."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from baal_ray.config import ModelConfig, ScoringConfig
from baal_ray.decoding import decode
from baal_ray.model import build_classifier, save_checkpoint
from baal_ray.scorer import PoolScorer
from baal_ray.workspace import checkpoint_uri
from pools import CLASSES, table, write_pool

SCRIPT = Path(__file__).parents[1] / "several_nodes.py"
IMAGES, BATCH_SIZE = 2_000, 32


def test_on_three_nodes_more_actors_join_and_the_scores_are_those_of_one(tmp_path: Path) -> None:
    write_pool(tmp_path, images=IMAGES)
    (tmp_path / "checkpoint").write_text(saved_model(tmp_path, tmp_path, seconds=0.1))
    with tempfile.TemporaryDirectory(prefix="baal-", dir="/tmp") as home:
        done = subprocess.run(
            [sys.executable, SCRIPT, tmp_path, "1", "3"],
            env=os.environ | {"HOME": home},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()[-1].split()) > 1  # some leave again and others come

    scores = pq.read_table(tmp_path / "scores").to_pandas().sort_values("id")
    quick = saved_model(tmp_path / "quick", tmp_path, seconds=0)
    scorer = PoolScorer(quick, ScoringConfig(samples=4, batch_size=BATCH_SIZE), 0, False)
    rows = decode(table(0, IMAGES).select(["id", "image"]), 12, 12, max_pixels=10**6)
    with pytest.warns(RuntimeWarning, match="cannot be traced"):
        expected = [
            scorer({name: column[start : start + BATCH_SIZE] for name, column in rows.items()})
            for start in range(0, IMAGES, BATCH_SIZE)
        ]
    pd.testing.assert_frame_equal(
        scores.drop(columns="source").reset_index(drop=True),
        pd.concat([each.to_pandas() for each in expected], ignore_index=True).drop(
            columns="source"
        ),
        check_exact=True,
    )


def saved_model(workspace: Path, folder: Path, seconds: float) -> str:
    """A checkpoint of the same weights each time."""
    torch.manual_seed(0)
    arguments = {"folder": str(folder), "seconds": seconds}
    model = ModelConfig(image_size=[12, 12], factory="pools:Slow", arguments=arguments)
    classifier = build_classifier(model, len(CLASSES))
    sha256 = save_checkpoint(str(workspace), classifier, model, CLASSES, {})
    return checkpoint_uri(str(workspace), sha256)
