"""Files of rounds with the fields that a test cares about, and plausible values in all others."""

from pathlib import Path
from typing import Any

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.workspace import stage_uri
from baal_ray.workspace.records import Fingerprint
from baal_ray.workspace.stage_files import (
    BatchResult,
    FitResult,
    ListedPool,
    Plan,
    PoolFile,
    RoundRecord,
    RoundResult,
    ScoresResult,
    StageFile,
)
from pools import round_config

#: Results of a round that has no model yet.
NO_FIT = FitResult(checkpoint=None, labels=0, metrics={})
NO_SCORES = ScoresResult(scores=None, scored=0, unreadable=0)


def put(workspace: str, round_id: str, *files: StageFile) -> None:
    """Write files of a round."""
    for file in files:
        storage.publish(stage_uri(workspace, round_id, file.STAGE), file.to_json())


def plan(version: int = 0, config: RoundConfig | None = None, pool: str = "/data/pool") -> Plan:
    """Return the plan of a round over a pool of one file with 30 images."""
    file = PoolFile(uri=f"{pool}/00000.parquet", row_groups=[30], footer="0" * 64)
    return Plan(
        config=config or round_config(Path("/data")),
        draw_seed=7,
        pool=ListedPool(files=[file], column="image", root=pool, images_are_files=False),
        manifest_version=version,
        baal_ray="0.1.0",
    )


def fit_result(checkpoint: str | None) -> FitResult:
    """Return the fit of a model with this sha256."""
    return FitResult(checkpoint=checkpoint, labels=40, metrics={"accuracy": 0.8})


def batch_result(files: list[str], acquired: int = 0, rule: str = "bald") -> BatchResult:
    """Return a batch in these files."""
    return BatchResult(acquired=acquired, random=0, rule=rule, stability=None, files=files)


def round_record(round_id: str, scores: str | None = None, **result: Any) -> RoundRecord:
    """Return the record of a round, with some of its result given."""
    usual: dict[str, Any] = {
        "acquired": 3,
        "checkpoint": "0" * 64,
        "rule": "bald",
        "scored": 30,
        "unreadable": 0,
        "labels": 40,
        "metrics": {"accuracy": 0.8, "nll": 0.7, "ece": 0.05, "images": 500.0},
        "seconds": {"fit": 30.0, "score": 5.0, "select": 1.0},
        "stability": 0.9,
    }
    return RoundRecord(
        result=RoundResult(round_id=round_id, **usual | result),
        scores=scores,
        candidates=None,
        stability=None,
        versions={"baal_ray": "0.1.0", "ray": "2.60.0"},
    )


def fingerprint(checkpoint: str, samples: int = 20) -> Fingerprint:
    """Return the fingerprint of a model's scores."""
    return Fingerprint(
        checkpoint=checkpoint,
        samples=samples,
        masks="shared",
        stochastic_depth=False,
        precision="float32",
        mask_seed=0,
        batch_size=64,
        max_pixels=10_000,
        decoder="pillow 12",
        engine=3,
        torch="2.15",
    )
