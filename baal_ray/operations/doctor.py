"""Checks of everything that a round relies on, before a night needs it: one finding per check."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import pyarrow as pa
import ray
from rich.table import Table
from rich.text import Text

from baal_ray import storage
from baal_ray.cluster import check_resources, check_workspace
from baal_ray.config import RoundConfig
from baal_ray.connection import connect
from baal_ray.errors import BaalRayError, StorageError, our_error
from baal_ray.factory_module import import_beside
from baal_ray.ids import IdSet
from baal_ray.image_set import ImageSet
from baal_ray.images import decode_many
from baal_ray.manifest import Manifest
from baal_ray.model import check_model
from baal_ray.operations.dashboard_access import dashboard_answers
from baal_ray.pool import check_ids, list_pool, sample_pool
from baal_ray.scoring.job import decoder_version
from baal_ray.storage.race_check import check_conditional_writes, race
from baal_ray.storage.scratch import scratch_folder
from baal_ray.training.evaluation_images import EvaluationImages, refuse_labelled
from baal_ray.training.examples import evaluation_examples, labelled_examples, sample_examples
from baal_ray.workspace import manifest_uri

Outcome = Literal["ok", "failed", "unknown"]

_RACING_PROCESSES = 2
_PLACES, _IMAGES = 4, 16


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: Name of the check.
        outcome: Outcome of the check. It is unknown if a check that this one needs did not pass,
            or if the check itself could not decide.
        text: The finding, or the remedy.
    """

    check: str
    outcome: Outcome
    text: str

    def __rich__(self) -> Table:
        """Return the finding as a line on a console."""
        mark, style = {"ok": ("ok", "green"), "failed": ("FAILED", "bold red")}.get(
            self.outcome, ("?", "yellow")
        )
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(width=6)
        line.add_column(width=14)
        line.add_column(overflow="fold")
        line.add_row(Text(mark, style), self.check, Text(self.text))
        return line


def examine(
    config_path: str, announce: Callable[[str], None] = lambda check: None
) -> Iterator[Finding]:
    """Run every check, even after one has failed.

    Args:
        config_path: Path of the configuration, which may be wrong.
        announce: Function that is called with the name of each check before it runs.

    Yields:
        The findings. Each check comes after the checks that it needs.
    """
    patient = _Checks(config_path)
    missed: set[str] = set()
    for check in _CHECKS:
        announce(check.name)
        finding = check.finding(patient, missed)
        if finding.outcome != "ok":
            missed.add(check.name)
        yield finding


class _CannotTellError(Exception):
    """A check ran but could not decide."""


class _Checks:
    """The configuration and the cluster that are examined. Each method is a check.

    A check returns a description of what it found, or raises an error that says what to do.
    """

    config: RoundConfig
    _evaluation = EvaluationImages(IdSet.of([]), ImageSet([]))

    def __init__(self, config_path: str) -> None:
        self._config_path = config_path

    def configuration(self) -> str:
        self.config = RoundConfig.from_yaml(self._config_path)
        import_beside(self._config_path, self.config.model.factory)
        k, by = self.config.selection.k, self.config.selection.by
        return f"{len(self.config.classes)} classes; {k} images per round by {by}"

    def ray(self) -> str:
        connect(log_to_driver=False, logging_level=logging.ERROR)
        return f"{ray.__version__}, {_count(sum(node['Alive'] for node in ray.nodes()), 'node')}"

    def workspace(self) -> str:
        with scratch_folder(self.config.workspace) as scratch:
            uri, data = storage.join(scratch, "file"), b"baal_ray"
            created = storage.create_if_absent(uri, data)
            names = [storage.name(file) for file in storage.list_files(scratch)]
            if not created or storage.read(uri) != data or names != ["file"]:
                raise StorageError(
                    f"{uri} was written, but reading or listing it returns something else; writes "
                    "to the workspace must be visible at once. Switch caching off, or use another "
                    "store"
                )
            storage.delete(uri)
            if storage.exists(uri):
                raise StorageError(f"{uri} was deleted but is still there; switch caching off")
        return f"{self.config.workspace}: files can be created, read, listed and deleted"

    def racing_creates(self) -> str:
        with ProcessPoolExecutor(_RACING_PROCESSES, mp_context=get_context("spawn")) as racers:
            check_conditional_writes(
                self.config.workspace,
                lambda uri: sum(racers.map(race, [uri] * _RACING_PROCESSES)),
            )
        return "if several writers create a file at once, exactly one succeeds"

    def manifest(self) -> str:
        manifest = Manifest(manifest_uri(self.config.workspace))
        version, images = manifest.version, len(manifest.ids())
        if version < 0:
            return "there is none yet; the first commit creates it"
        return f"version {version}, {_count(images, 'image')} acquired or labelled"

    def pool(self) -> str:
        config = self.config.pool
        images_are_files = config.format == "files"
        scratch = scratch_folder if images_are_files else nullcontext
        with scratch(self.config.workspace) as folder:
            listing = list_pool(config, folder)
            evaluation_images = check_ids(listing, self._evaluation.ids)
            sample = sample_pool(listing, _PLACES, _IMAGES)
        images = f"{_count(listing.rows, 'image')} with unique ids"
        told, too_many = self._decoded(sample)
        told = "; ".join(filter(None, [images, listing.note, listing.large_groups, told]))
        if too_many:
            raise BaalRayError(
                f"{told}; scoring.max_unreadable allows "
                f"{self.config.scoring.max_unreadable:.2%}, so the round would stop. Repair the "
                "pool, or allow more"
            )
        if self.config.training.evaluation_set is None:
            return told
        same = int(self._evaluation.images.contains(sample["image"]).sum())
        return (
            f"{told}; {evaluation_images} are evaluation images by id, and {same} of the sampled "
            "by their bytes: a round leaves them out"
        )

    def _decoded(self, sample: pa.Table) -> tuple[str, bool]:
        """Return how many images of a sample cannot be decoded, and whether that is too many."""
        errors = self._unreadable(sample)
        told = f"{len(errors)} of {len(sample)} sampled cannot be decoded"
        told += f", such as {errors[0]}" if errors else ""
        allowed = self.config.scoring.max_unreadable
        return told, len(errors) > 1 + allowed * len(sample)  # a single one may be bad luck

    def _unreadable(self, sample: pa.Table) -> list[str]:
        """Return the faults of the unreadable images in a sample of the pool."""
        max_pixels = self.config.scoring.max_pixels
        size = self.config.model.image_size
        _, errors = decode_many(sample["image"].to_pylist(), *size, max_pixels=max_pixels)
        ids, unread = sample["id"].to_pylist(), sample["error"].to_pylist()
        faults = [(i, lost or fault) for i, lost, fault in zip(ids, unread, errors, strict=True)]
        return [f"{image_id!r}: {fault}" for image_id, fault in faults if fault]

    def evaluation_set(self) -> str:
        uri = self.config.training.evaluation_set
        if uri is None:
            return f"none: {self.config.training.held_out:.0%} of the labelled images are held out"
        integer_ids = self.config.pool.integer_ids
        examples = evaluation_examples(uri, self.config.classes, integer_ids=integer_ids)
        self._evaluation = EvaluationImages.of(examples)
        classes = set(examples.class_of.values())
        images = _count(len(examples.class_of), "image")
        told, too_many = self._decoded(sample_examples(examples, _PLACES, _IMAGES))
        told = f"{images} of {_count(len(classes), 'class', 'es')}; {told}"
        if too_many:
            raise BaalRayError(
                f"{told}. A fit would leave them out, so that accuracy is not that of the whole "
                "set. Repair the evaluation set"
            )
        return told

    def labelled_set(self) -> str:
        config = self.config
        labelled = Manifest(manifest_uri(config.workspace)).labelled()
        examples = labelled_examples(config.workspace, labelled, config.classes)
        refuse_labelled(self._evaluation, examples, str(config.training.evaluation_set))
        apart = ", none of them an evaluation image" if len(labelled) else ""
        return f"{_count(len(labelled), 'image')}{apart}"

    def model(self) -> str:
        config = self.config
        check_model(config.model, len(config.classes), trained=not config.training.epochs)
        return f"{self.config.model.factory} can be built and runs; every dropout is reached"

    def decoder(self) -> str:
        decoder = decoder_version(self.config.scoring)
        return f"the {self.config.scoring.decode_on.upper()} decodes JPEGs ({decoder})"

    def cluster(self) -> str:
        check_resources(self.config.resources)
        there = ray.cluster_resources()
        return (
            f"{there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs now, which is enough"
        )

    def nodes(self) -> str:
        nodes = check_workspace(self.config.workspace)
        return f"all {nodes} read the workspace" if nodes > 1 else "there is only this machine"

    def dashboard(self) -> str:
        address, answers = dashboard_answers()
        match answers:
            case "nobody":
                return "there is none"
            case "everybody":
                raise BaalRayError(
                    f"{address} answers everybody, and executes any code it is sent. Start Ray "
                    "with RAY_AUTH_MODE=token on every node, or with --dashboard-host=127.0.0.1"
                )
            case "unknown":
                raise _CannotTellError(
                    f"not known, because nothing answers at {address}. Make sure that only you "
                    "can reach it, or start Ray with RAY_AUTH_MODE=token"
                )
        return f"{address} answers only {answers}"


@dataclass(frozen=True)
class _Check:
    """A check: its name, the method that runs it, and the checks that must pass first."""

    name: str
    run: Callable[[_Checks], str]
    needs: tuple[str, ...] = ()

    def finding(self, patient: _Checks, missed: set[str]) -> Finding:
        lacking = [name for name in self.needs if name in missed]
        if lacking:
            return Finding(
                self.name, "unknown", f"not checked, because it needs: {', '.join(lacking)}"
            )
        try:
            return Finding(self.name, "ok", self.run(patient))
        except _CannotTellError as error:
            return Finding(self.name, "unknown", str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, the other checks still run
            told = our_error(error) or f"{type(error).__name__}: {error}"
            return Finding(self.name, "failed", str(told))


_CHECKS = (
    _Check("configuration", _Checks.configuration),
    _Check("Ray", _Checks.ray),
    _Check("workspace", _Checks.workspace, needs=("configuration",)),
    _Check("racing creates", _Checks.racing_creates, needs=("configuration", "workspace")),
    _Check("manifest", _Checks.manifest, needs=("configuration", "workspace")),
    _Check("evaluation set", _Checks.evaluation_set, needs=("configuration",)),
    _Check("pool", _Checks.pool, needs=("configuration", "Ray")),
    _Check("labelled set", _Checks.labelled_set, needs=("configuration", "manifest")),
    _Check("model", _Checks.model, needs=("configuration",)),
    _Check("decoder", _Checks.decoder, needs=("configuration",)),
    _Check("cluster", _Checks.cluster, needs=("configuration", "Ray")),
    _Check("nodes", _Checks.nodes, needs=("configuration", "Ray", "workspace")),
    _Check("dashboard", _Checks.dashboard, needs=("Ray",)),
)


def _count(number: int, name: str, plural: str = "s") -> str:
    return f"{number} {name if number == 1 else name + plural}"
