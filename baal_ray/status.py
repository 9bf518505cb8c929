"""The rounds of a workspace and what became of their picks."""

import json
from collections import Counter
from datetime import datetime

from baal_ray import storage
from baal_ray.manifest import Manifest
from baal_ray.schema import LABELLED
from baal_ray.workspace import manifest_uri, rounds_uri


def round_rows(workspace: str) -> list[tuple[str, ...]]:
    """One row a round, in the order in which they came into the manifest.

    Returns:
        Round, rule, images acquired, images labelled, and the accuracy on the evaluation set of
        the model that chose them. A labelled set that was brought in whole counts as a round.
    """
    rows = Manifest(manifest_uri(workspace)).rows()
    first: dict[str, datetime] = {}
    acquired: Counter[str] = Counter()
    labelled: Counter[str] = Counter()
    rules: dict[str, str] = {}
    columns = (rows[name].to_pylist() for name in ("round", "status", "rule", "acquired_at"))
    for round_id, status, rule, acquired_at in zip(*columns, strict=True):
        first[round_id] = acquired_at
        acquired[round_id] += 1
        labelled[round_id] += status == LABELLED
        rules[round_id] = rule or "labelled set"
    accuracy = _accuracies(workspace)
    return [
        (
            round_id,
            rules[round_id],
            str(acquired[round_id]),
            str(labelled[round_id]),
            accuracy.get(round_id, ""),
        )
        for round_id in sorted(first, key=lambda r: first[r])
    ]


def _accuracies(workspace: str) -> dict[str, str]:
    found = {}
    for file in storage.list_files(rounds_uri(workspace), "/round.json"):
        result = json.loads(storage.read(file))["result"]
        if "accuracy" in result["metrics"]:
            found[result["round_id"]] = f"{result['metrics']['accuracy']:.3f}"
    return found
