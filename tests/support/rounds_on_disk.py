"""Finished rounds as they lie in a workspace, written without a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from baal_ray import storage
from baal_ray.config import RoundConfig
from baal_ray.manifest import Manifest
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import batch_uri, manifest_uri, scores_uri
from baal_ray.workspace.table_schemas import BATCH, SCORES
from pools import picture, round_config, write_pool
from stage_files import batch_result, plan, put, round_record


def score_rows(
    ids: Sequence[str], scores: Sequence[float], predicted: Sequence[int], column: str = "bald"
) -> pa.Table:
    """Return rows of scores of 4 posterior samples. Score columns other than `column` are null."""
    return _of(
        SCORES,
        id=ids,
        samples=[4] * len(ids),
        predicted=predicted,
        **{"confidence": [0.5] * len(ids), column: scores},
    )


def unreadable_rows(ids: Sequence[str], errors: Sequence[str]) -> pa.Table:
    """Return rows of images that could not be read."""
    return _of(SCORES, id=ids, samples=[4] * len(ids), error=errors)


def _of(schema: pa.Schema, **columns: Sequence[Any]) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table(
        [pa.array(columns.get(field.name, [None] * rows), field.type) for field in schema],
        schema=schema,
    )


def write_round(
    folder: Path,
    round_id: str = "night-1",
    *,
    labels: int = 40,
    accuracy: float = 0.8,
    ids: Sequence[str] = ("image-0000", "image-0001", "image-0002"),
    failures: Sequence[str] = (),
    control: Sequence[str] = (),
    result: dict[str, Any] | None = None,
    **sections: Any,
) -> RoundConfig:
    """Write a round that scored a pool of 30 images, and acquired some of them by BALD.

    Args:
        folder: Folder of the pool and the workspace.
        round_id: Name of the round.
        labels: Number of labels that it was fitted on.
        accuracy: Accuracy of its model.
        ids: Ids of its picks, the best first.
        failures: Errors of images that it could not read.
        control: Picks that are random.
        result: Values of its `round.json` that differ from the usual ones.
        **sections: Sections of the configuration.
    """
    sections.setdefault("selection", {"k": len(ids)})
    config = round_config(folder, **sections)
    if not (folder / "pool").exists():
        write_pool(folder, 30, 30)
    scores = storage.join(scores_uri(config.workspace), f"of-{round_id}")
    others = [f"image-{number:04}" for number in range(3, 30 - len(failures))]
    bald = np.concatenate([np.linspace(0.6, 0.5, len(ids)), np.linspace(0.4, 0, len(others))])
    numbers = [number % 3 for number in range(len(bald))]
    publish_table(scores, score_rows([*ids, *others], bald.tolist(), numbers))
    if failures:
        broken = [f"broken-{number}" for number in range(len(failures))]
        publish_table(scores, unreadable_rows(broken, failures))
    batch = _of(
        BATCH,
        id=ids,
        source=["pool"] * len(ids),
        rank=range(1, len(ids) + 1),
        score=bald[: len(ids)].tolist(),
        rule=["random" if image_id in control else config.selection.by for image_id in ids],
        model=["0" * 64] * len(ids),
        predicted=[config.classes[number % 3] for number in range(len(ids))],
        image=[picture(number % 3, number) for number in range(len(ids))],
    )
    file = publish_table(batch_uri(config.workspace, round_id), batch)
    version = Manifest(manifest_uri(config.workspace)).version
    Manifest(manifest_uri(config.workspace)).acquire(batch.drop_columns(["image"]), round_id)
    metrics = {"accuracy": accuracy, "nll": 0.7, "ece": 0.05, "images": 500.0}
    put(
        config.workspace,
        round_id,
        plan(version, config, str(folder / "pool")),
        batch_result([file.rsplit("/", 1)[-1]], len(ids)),
        round_record(
            round_id,
            scores,
            **{
                "acquired": len(ids),
                "rule": config.selection.by,
                "scored": 30 - len(failures),
                "unreadable": len(failures),
                "labels": labels,
                "metrics": metrics,
                **(result or {}),
            },
        ),
    )
    return config


def label(config: RoundConfig, labels: dict[str, str]) -> None:
    """Label images, as an oracle would."""
    table = pa.table({"id": list(labels), "label": list(labels.values())})
    Manifest(manifest_uri(config.workspace)).label(table)
