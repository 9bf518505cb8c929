"""The rounds of a workspace and what became of their picks."""

from collections import Counter

from baal_ray.manifest import Manifest
from baal_ray.rounds import finished_rounds, read_stage
from baal_ray.schema import ACQUIRED, LABELLED
from baal_ray.workspace import manifest_uri


def round_rows(workspace: str) -> list[tuple[str, ...]]:
    """One row a round, in the order in which they came into the manifest.

    Returns:
        Round, rule, images acquired, images labelled, images that wait for a label, and the
        accuracy on the evaluation set of the model that chose them. A labelled set that was
        brought in whole counts as a round.
    """
    manifest = Manifest(manifest_uri(workspace))
    rows = manifest.rows()
    acquired: Counter[str] = Counter()
    by_status: Counter[tuple[str, str]] = Counter()
    rules: dict[str, str] = {}
    columns = (rows[name].to_pylist() for name in ("round", "status", "rule"))
    for round_id, status, rule in zip(*columns, strict=True):
        acquired[round_id] += 1
        by_status[round_id, status] += 1
        rules[round_id] = rule or "labelled set"
    accuracy = _accuracies(workspace)
    return [
        (
            round_id,
            rules[round_id],
            str(acquired[round_id]),
            str(by_status[round_id, LABELLED]),
            str(by_status[round_id, ACQUIRED]),
            accuracy.get(round_id, ""),
        )
        for round_id in manifest.rounds()
        if round_id in acquired
    ]


def _accuracies(workspace: str) -> dict[str, str]:
    found = {}
    for round_id in finished_rounds(workspace):
        result = (read_stage(workspace, round_id, "round") or {})["result"]
        if "accuracy" in result["metrics"]:
            found[result["round_id"]] = f"{result['metrics']['accuracy']:.3f}"
    return found
