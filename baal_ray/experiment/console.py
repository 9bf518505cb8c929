"""The terminal output of an experiment: the progress of each rule, and the results."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.labels_needed import labels_needed
from baal_ray.experiment.verdicts import ratio_in_words, verdicts

logger = logging.getLogger(__name__)

# Interval of rounds at which a curve is logged if the output is not a terminal.
_EVERY = 10


@contextmanager
def watching(
    config: ExperimentConfig, console: Console
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function to call with each point. It moves a bar per rule, or logs some points."""
    if not console.is_terminal:
        yield _log
        return
    logging.disable(logging.WARNING)
    columns = ("{task.description:<16}", "{task.fields[last]:<26}")
    with Progress(
        *(TextColumn(column) for column in columns),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        total = config.seeds * (config.rounds + 1)
        tasks = {
            rule.name: progress.add_task(rule.name, total=total, last="") for rule in config.rules
        }

        def watch(row: dict[str, Any]) -> None:
            task: TaskID = tasks[row["rule"]]
            progress.update(task, advance=1, last=_progress_of(row))

        yield watch


def _log(row: dict[str, Any]) -> None:
    if row["round"] % _EVERY == 0:
        logger.info("%s, seed %d: %s", row["rule"], row["seed"], _progress_of(row))


def _progress_of(row: dict[str, Any]) -> str:
    return f"accuracy {row['accuracy']:.3f}, {row['labels']} labels"


def summary(config: ExperimentConfig, curves: pa.Table) -> Group:
    """Return a table of the labels that each rule needs, and the verdict on each rule."""
    needed = labels_needed(curves, config.accuracies)
    table = Table("rule", "accuracy", "reached", "labels needed", "ratio to random", box=None)
    for row in needed.to_pylist():
        table.add_row(
            row["rule"],
            f"{row['accuracy']:g}",
            f"{row['reached']} of {row['seeds']}",
            "?" if row["median"] is None else f"{row['median']:.0f}",
            ratio_in_words(row),
        )
    found = [Text(verdict.sentence) for verdict in verdicts(curves, needed)]
    where = Text(f"Everything is in {config.folder}: curves, labels needed and report.html.")
    return Group(table, Text(), *found, Text(), where)
