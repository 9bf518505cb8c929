"""The run of an experiment: a learning curve for each rule and seed.

Curves run in parallel on the cluster, each in an actor of its own, and every point is written as
soon as it is computed. An experiment that was killed therefore continues from there, and one with
more seeds, rules or rounds adds them to the existing curves.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa
import ray
import torch
from pydantic import JsonValue

import baal_ray
from baal_ray import storage
from baal_ray.config import differences
from baal_ray.connection import connect
from baal_ray.errors import ConfigError, PlanMismatchError, ResourceError
from baal_ray.experiment.config import ExperimentConfig, TrialConfig
from baal_ray.experiment.labelled_images import LabelledImages, read_images
from baal_ray.experiment.labels_needed import labels_needed
from baal_ray.experiment.learning_curve import CURVE, Curve
from baal_ray.experiment.reference_model import PickFeatures, features_of_picks
from baal_ray.ids import IdSet
from baal_ray.model import check_model
from baal_ray.report.automatic_pages import extra_is_installed
from baal_ray.storage.parquet import LoadedParquet, parquet_bytes
from baal_ray.training.evaluation_images import EvaluationImages, shared_images
from baal_ray.training.examples import evaluation_examples
from baal_ray.workspace.records import Record

logger = logging.getLogger(__name__)

Row = dict[str, Any]

# Most retries of an actor, and of the point it was computing, after its node is lost.
_MOST_RESTARTS = 3


def run_experiment(
    config: ExperimentConfig,
    *,
    rule: str | None = None,
    seed: int | None = None,
    watch: Callable[[Row], None] = lambda row: None,
) -> pa.Table:
    """Run an experiment, or what is left of it.

    The folder has `curves/<rule>-seed<seed>.parquet`, which grow round by round. Once all are
    complete, it also has all points in `curves.parquet`, the labels that each rule needs in
    `labels_needed.parquet`, and a page that shows both, `report.html`, if it can be drawn.

    Args:
        config: Configuration of the experiment.
        rule: Name of the rule, if only its curves are to run.
        seed: Number of the seed, if only its curves are to run.
        watch: Function that is called with each point of a curve, a row of `CURVE`, and first with
            those that exist already.

    Returns:
        All points of the curves that were asked for, `CURVE`.

    Raises:
        PlanMismatchError: If the folder's experiment was begun with other settings or images.
        BaalRayError: In the other cases that `baal_ray.errors` lists.
    """
    wanted = _wanted(config, rule, seed)
    check_model(config.model, len(config.classes))
    pool = read_images(config.labelled, config)
    evaluation = read_images(str(config.training.evaluation_set), config)
    _check_size(config, pool)
    _warn_of_shared_images(config)
    _check_same(config, pool)
    connect()
    _check_resources(config)
    curves = {_uri(config, rule, seed): (rule, seed) for rule, seed in wanted}
    rows = {uri: _read(uri) for uri in curves}
    for row in chain.from_iterable(rows.values()):
        watch(row)
    for uri, row in _points(config, curves, rows, pool, evaluation):
        rows[uri].append(row)
        storage.publish(uri, parquet_bytes(pa.Table.from_pylist(rows[uri], CURVE)))
        watch(row)
    everything = pa.Table.from_pylist(list(chain.from_iterable(rows.values())), CURVE)
    if len(wanted) == len(config.rules) * config.seeds:
        _publish(config, everything, pool)
    return everything


def _wanted(
    config: ExperimentConfig, rule: str | None, seed: int | None
) -> list[tuple[TrialConfig, int]]:
    """Return the curves to run, those of one seed together."""
    names = [each.name for each in config.rules]
    if rule is not None and rule not in names:
        raise ConfigError("--rule", [f"is {rule!r}; it must be one of {', '.join(names)}"])
    if seed is not None and not 0 <= seed < config.seeds:
        raise ConfigError("--seed", [f"is {seed}; it must be in 0…{config.seeds - 1}"])
    return [
        (each, number)
        for number in range(config.seeds)
        for each in config.rules
        if rule in (None, each.name) and seed in (None, number)
    ]


def _check_size(config: ExperimentConfig, pool: LabelledImages) -> None:
    if len(pool.ids) < config.most_labels + config.k:
        raise ConfigError(
            "experiment",
            [
                f"rounds is {config.rounds}, so a curve ends with {config.most_labels} labels and "
                f"picks {config.k} more; {config.labelled} has only {len(pool.ids)} images. Lower "
                "rounds or k"
            ],
        )


def _warn_of_shared_images(config: ExperimentConfig) -> None:
    """Warn of labelled images with the bytes of an evaluation image. Ids may be row numbers."""
    labelled, evaluation = (
        evaluation_examples(uri, config.classes, integer_ids=True)
        for uri in (config.labelled, str(config.training.evaluation_set))
    )
    images = replace(EvaluationImages.of(evaluation), ids=IdSet.of([]))
    shared = shared_images(images, labelled)
    if shared:
        logger.warning(
            "%d images of %s, such as %r, are also in training.evaluation_set, so all accuracies "
            "are too high. Remove them from one of the two, and begin a new experiment",
            len(shared),
            config.labelled,
            shared[0],
        )


class ExperimentRecord(Record):
    """`experiment.json`: the settings that every point of an experiment's curves depends on.

    Attributes:
        settings: The settings by section and name, and `images`, a hash of the labelled images.
        baal_ray: The version of this package.
    """

    settings: dict[str, JsonValue]
    baal_ray: str


def _check_same(config: ExperimentConfig, pool: LabelledImages) -> None:
    """Refuse to continue with other settings or images, as the points would not fit together."""
    uri = storage.join(config.folder, "experiment.json")
    names = "\n".join(map("{} {}".format, pool.ids, pool.labels_N.tolist()))
    now = {**config.of_a_curve(), "images": storage.sha256(names.encode())}
    begun = ExperimentRecord(settings=now, baal_ray=baal_ray.__version__)
    if storage.create_if_absent(uri, begun.to_json()):
        return
    before = ExperimentRecord.read(uri, "Name another folder, or put back a whole copy of it.")
    faults = list(differences(before.settings, now))
    if faults:
        raise PlanMismatchError(
            f"the experiment in {config.folder} was begun with other settings or images; go back "
            "to those, or name another folder",
            faults,
        )


def _check_resources(config: ExperimentConfig) -> None:
    there = ray.cluster_resources()
    for kind, needed in (("CPU", config.cpus), ("GPU", config.gpus)):
        if needed > there.get(kind, 0):
            raise ResourceError(
                f"a curve needs {needed:g} {kind}s, but the cluster has {there.get(kind, 0):g}; "
                f"lower {kind.lower()}s, or give the cluster more"
            )


def _uri(config: ExperimentConfig, rule: TrialConfig, seed: int) -> str:
    return storage.join(config.folder, "curves", f"{rule.name}-seed{seed}.parquet")


def _read(uri: str) -> list[Row]:
    if not storage.exists(uri):
        return []
    rows: list[Row] = LoadedParquet(storage.read(uri), uri).read(CURVE.names).to_pylist()
    return rows


def _points(
    config: ExperimentConfig,
    curves: dict[str, tuple[TrialConfig, int]],
    rows: dict[str, list[Row]],
    pool: LabelledImages,
    evaluation: LabelledImages,
) -> Iterator[tuple[str, Row]]:
    """Yield the missing points of all curves, as they are computed."""
    actor_of = ray.remote(
        num_cpus=config.cpus,
        num_gpus=config.gpus,
        max_restarts=_MOST_RESTARTS,
        max_task_retries=_MOST_RESTARTS,
    )(_CurveActor)
    shared = [ray.put(images) for images in (pool, evaluation)]
    actors: dict[str, Any] = {}
    pending: dict[Any, str] = {}

    def go_on(uri: str) -> None:
        if len(rows[uri]) > config.rounds:
            actors.pop(uri, None)  # which ends the actor
            return
        if uri not in actors:
            actors[uri] = actor_of.remote(config, *curves[uri], *shared)
        pending[actors[uri].point.remote([row["picks"] for row in rows[uri]])] = uri

    for uri in curves:
        go_on(uri)
    while pending:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        uri = pending.pop(ready)
        yield uri, ray.get(ready)
        go_on(uri)


class _CurveActor(Curve):
    """A curve in a process of its own, which uses no more than its CPUs."""

    def __init__(self, config: ExperimentConfig, *others: Any) -> None:
        torch.set_num_threads(max(1, int(config.cpus)))
        super().__init__(config, *others)


def _publish(config: ExperimentConfig, curves: pa.Table, pool: LabelledImages) -> None:
    needed = labels_needed(curves, config.accuracies)
    for name, table in (("curves", curves), ("labels_needed", needed)):
        storage.publish(storage.join(config.folder, f"{name}.parquet"), parquet_bytes(table))
    report_experiment(config, curves, needed, lambda: _look(config, curves, pool))


def _look(config: ExperimentConfig, curves: pa.Table, pool: LabelledImages) -> PickFeatures:
    """Look at the picks of each rule with the first seed, in a task on the cluster."""
    picks: dict[str, list[str]] = {rule.name: [] for rule in config.rules}
    for row in curves.select(["rule", "seed", "picks"]).to_pylist():
        if row["seed"] == 0:
            picks[row["rule"]] += row["picks"]
    task = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus)(features_of_picks)
    found: PickFeatures = ray.get(task.remote(config, pool, picks))
    return found


def report_experiment(
    config: ExperimentConfig,
    curves: pa.Table,
    labels_needed: pa.Table,
    look: Callable[[], PickFeatures],
) -> None:
    """Write a page into the folder of an experiment. As for a round, nothing is raised.

    Args:
        config: Configuration of the experiment.
        curves: Table of all points, as `experiment_page` takes it.
        labels_needed: Table of the labels needed, as `experiment_page` takes it.
        look: Function that returns the picks as seen by a model that took no part. It is called
            only if the page can be drawn.
    """
    if not extra_is_installed():
        logger.info("no report.html: baal-ray[report] is not installed")
        return
    try:
        from baal_ray.experiment.page import experiment_page
        from baal_ray.experiment.picks_map import picks_map

        try:
            maps = picks_map(look(), config.classes)
        except Exception as error:  # noqa: BLE001  the curves can be shown without them
            logger.warning("no map of the picks: %s: %s", type(error).__name__, error)
            maps = []
        page = experiment_page(curves, labels_needed, config.shown(), _NOTES, maps)
        storage.publish(storage.join(config.folder, "report.html"), page.encode())
    except Exception as error:  # noqa: BLE001  the curves are written already
        logger.warning("no report.html: %s: %s", type(error).__name__, error)


_NOTES = (
    "Every point is a model fitted from scratch on all labels so far. Its initial weights are the "
    "same for all rules of a seed and round.",
    "All rules of a seed start with the same labelled images, the same number of each class. An "
    "unlabelled pool does not give this head start.",
    "The labels that a curve needs are counted where the rising curve that fits its points best "
    "(isotonic regression) reaches an accuracy. A curve that has it at the start is counted with "
    "the labels of the start.",
)
