"""Tests of a scorer without enough memory: a real process, under a limit of its own."""

import json
import subprocess
import sys

import pytest

# Scores 64 images of 7 MB each at once, without a limit and then with a number of MB to spare.
SCORE = """
import json, logging, resource, sys
from pathlib import Path

import numpy as np
import torch

from baal_ray.checkpoint import save_checkpoint
from baal_ray.config import ModelConfig, ScoringConfig
from baal_ray.model import build_classifier
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer
from baal_ray.workspace import checkpoint_uri

logging.basicConfig(stream=sys.stderr, format="%(message)s")
workspace, megabytes = sys.argv[1], int(sys.argv[2])
model = ModelConfig(factory="pools:Hungry", image_size=[12, 12])
torch.manual_seed(0)
sha256 = save_checkpoint(workspace, build_classifier(model, 3), model, ["a", "b", "c"])
pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 12, 12), np.uint8)
rows = {"id": np.array([f"i{n}" for n in range(64)], object), "source": np.full(64, "", object),
        "image": pixels, "error": np.full(64, "", object)}

def score():
    scorer = PoolScorer(
        ScoringJob(checkpoint_uri(workspace, sha256), ScoringConfig(samples=3), model=model)
    )
    return [scorer(rows)["bald"].to_pylist() for _ in range(2)]

free = score() if megabytes > 100 else None
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
print(json.dumps([free, score()]))
"""


def score(workspace, megabytes):
    return subprocess.run(
        [sys.executable, "-c", SCORE, str(workspace), str(megabytes)],
        capture_output=True,
        text=True,
    )


def test_a_mini_batch_is_halved_until_it_fits_and_that_is_remembered(tmp_path):
    done = score(tmp_path, megabytes=300)
    assert done.returncode == 0, done.stderr
    free, limited = json.loads(done.stdout)
    for scores in limited:
        assert scores == pytest.approx(free[0], abs=1e-5)
    told = [line for line in done.stderr.splitlines() if "enough memory for" in line]
    halved = "the cpu does not have enough memory for 64 images at once, so it now runs 32 at a"
    assert halved in told[0]
    assert len(told) == len(set(told))  # the second mini-batch began with what had fit


def test_when_not_even_two_images_fit_it_says_what_to_do(tmp_path):
    done = score(tmp_path, megabytes=3)
    assert done.returncode == 1
    refused = "ResourceError: the cpu does not have enough memory to score 2 images at once: "
    assert refused in done.stderr
    assert "Use a larger device, scoring.precision bfloat16, or a smaller model" in done.stderr
