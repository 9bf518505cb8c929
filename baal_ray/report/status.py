"""The state of a workspace: its rounds, the states of their picks, and the value of labels."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from rich.table import Column, Table

from baal_ray.config import RoundConfig
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.changes import rounds_of
from baal_ray.report.class_quality import class_qualities, worst_first
from baal_ray.report.comparison import Comparison, compare_picks, comparison_lines
from baal_ray.report.gain import comparable_models, gain_lines
from baal_ray.workspace import manifest_uri
from baal_ray.workspace.rounds import FinishedRound, finished_rounds
from baal_ray.workspace.table_schemas import ACQUIRED, LABELLED

COLUMNS = (
    "round",
    "rule",
    "acquired",
    "labelled",
    "waiting",
    "accuracy before",
    "wrong: active",
    "wrong: random",
)


# The most times that everything is read: `forget` replaces files, also under a reader.
_READS = 3


@dataclass(frozen=True)
class Status:
    """The state of a workspace's rounds.

    Attributes:
        rows: One row per round, with a text for each of `COLUMNS`, in the order in which the
            rounds entered the manifest. "accuracy before" is the accuracy of the model that chose
            the picks, on the evaluation set. "wrong" is the share of active and of random picks
            that it was wrong about. An imported labelled set counts as a round.
        summary: Paragraphs about all rounds together.
    """

    rows: list[tuple[str, ...]]
    summary: list[str]

    def __rich__(self) -> Table:
        """Return the rows as a table for a console."""
        columns = (Column(name, overflow="fold") for name in COLUMNS)
        table = Table(*columns, box=None, pad_edge=False)
        for row in self.rows:
            table.add_row(*row)
        return table


def workspace_status(config: RoundConfig) -> Status:
    """Return the state of the rounds in a configuration's workspace.

    Raises:
        CorruptFileError: If a round's record is damaged.
        FormatError: If another version wrote a round's plan or record.
        StorageError: If the manifest or an acquisition batch cannot be read.
    """
    for _ in range(_READS - 1):
        try:
            return _status(config)
        except StorageError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return _status(config)


def _status(config: RoundConfig) -> Status:
    workspace = config.workspace
    images = Manifest(manifest_uri(workspace)).rows()
    rounds = rounds_of(images)
    picks = compare_picks(workspace, images)
    finished = finished_rounds(workspace)
    results = [each.record.result for each in finished]
    accuracy = {
        result.round_id: f"{result.metrics['accuracy']:.3f}"
        for result in results
        if "accuracy" in result.metrics
    }
    counted = _counted(images)
    rows: list[tuple[str, ...]] = []
    for round_id in rounds:
        wrong = picks.get(round_id, Comparison())
        rows.append(
            (
                round_id,
                *counted[round_id],
                accuracy.get(round_id, ""),
                str(wrong.active),
                str(wrong.random),
            )
        )
    gained = gain_lines(config, comparable_models(config, finished)) if accuracy else ()
    summary = (comparison_lines(picks.values()), gained, _worst_class(rounds, finished))
    return Status(rows, [text for text in map("\n".join, summary) if text])


def _worst_class(rounds: Sequence[str], finished: Sequence[FinishedRound]) -> Iterator[str]:
    """Yield a line about the class with the lowest recall of the latest model, if it is known."""
    by_round = {each.record.result.round_id: each for each in finished}
    latest = [by_round[name] for name in rounds if name in by_round][-1:]
    for each in latest:
        counts = each.record.result.by_class
        if counts is not None:
            for worst in worst_first(class_qualities(each.plan.config.classes, counts))[:1]:
                yield f"Worst class of round {each.record.result.round_id}: {worst}."


def _counted(images: pa.Table) -> dict[str, tuple[str, str, str, str]]:
    """Return each round's rule, and its images acquired, labelled and waiting."""
    rules: defaultdict[str, Counter[str]] = defaultdict(Counter)
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    columns = (images[name].to_pylist() for name in ("round", "status", "rule"))
    for round_id, status, rule in zip(*columns, strict=True):
        rules[round_id][rule or "labelled set"] += 1
        statuses[round_id][status] += 1
    return {
        round_id: (
            _named(rules[round_id]),
            str(counts.total()),
            str(counts[LABELLED]),
            str(counts[ACQUIRED]),
        )
        for round_id, counts in statuses.items()
    }


def _named(rules: Counter[str]) -> str:
    """Return the rule of a round's picks, and the number of random picks beside them."""
    others = [rule for rule in rules if rule != "random"]
    if not others or not rules["random"]:
        return "".join(rules)
    return f"{others[0]} + {rules['random']} random"
