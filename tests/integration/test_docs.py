"""Tests of the Python in the pages that needs Ray."""

from pathlib import Path
from typing import Any

import pytest
import torch

from baal_ray.checkpoint import save_checkpoint
from baal_ray.config import ModelConfig
from baal_ray.model import build_classifier
from baal_ray.workspace import checkpoint_uri, scores_uri
from documentation import python_blocks
from pools import CLASSES, write_pool

MODEL = ModelConfig(image_size=[12, 12])
IMAGES = 60


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("block", python_blocks(with_ray=True).items(), ids=lambda item: item[0])
def test_a_block_of_python_scores_a_pool(
    block: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    sha256 = save_checkpoint(str(tmp_path), build_classifier(MODEL, 3), MODEL, CLASSES)
    names: dict[str, Any] = {
        "pool_uri": write_pool(tmp_path, IMAGES),
        "checkpoint_uri": checkpoint_uri(str(tmp_path), sha256),
        "scores_uri": scores_uri(str(tmp_path)),
    }
    exec(compile(block[1], block[0], "exec"), names)
    assert names["scores"].scored == IMAGES
    printed = capsys.readouterr().out
    assert all(f"{column}: " in printed for column in ("id", "bald", "predicted"))
