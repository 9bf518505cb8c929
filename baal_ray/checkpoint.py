"""A fitted model on disk, named by the sha256 of its weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict

from baal_ray import storage
from baal_ray.config import ModelConfig
from baal_ray.errors import CheckpointError, LostCheckpointError, LostFileError, described
from baal_ray.model import ImageClassifier, _build_network, is_built_in
from baal_ray.workspace import checkpoint_uri
from baal_ray.workspace.records import Record, Task

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"

# The most that the safetensors library allows.
_MOST_HEADER_BYTES = 100_000_000

# Beginnings of the names of arguments by which torchvision's factories download weights.
_DOWNLOADS = ("weights", "pretrained")


class FitSummary(BaseModel):
    """The fit that a checkpoint came from.

    Attributes:
        name: The name of the fit, a hash of everything it depends on.
        labels: The number of labelled images.
        metrics: The metrics of its last epoch on the evaluation set, by name.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    name: str
    labels: int
    metrics: dict[str, float]


class Architecture(BaseModel):
    """The header of a checkpoint's weights file.

    Attributes:
        model: Configuration of the model: how its network is built and fed.
        classes: Names of the classes that its outputs stand for, in order.
    """

    model_config = ConfigDict(frozen=True)

    model: ModelConfig
    classes: list[str]


class Description(Record):
    """`model.json`, for people to read. All that a score depends on is in the weights file.

    Attributes:
        task: The task that the model is fitted for.
        model: The settings by which the network is built and fed.
        classes: The names that its outputs stand for, in order.
        sha256: The sha256 of `model.safetensors`.
        fit: The fit; None for weights that were not fitted here.
    """

    task: Task = "classification"
    model: ModelConfig
    classes: list[str]
    sha256: str
    fit: FitSummary | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A fitted model.

    Attributes:
        sha256: Hash of `model.safetensors`, and the checkpoint's name everywhere.
        config: Configuration of the model: how its network is built and fed.
        classes: Names of the classes that its outputs stand for, in order.
        classifier: The network in evaluation mode, on the CPU.
    """

    sha256: str
    config: ModelConfig
    classes: list[str]
    classifier: ImageClassifier


def save_checkpoint(
    workspace: str,
    classifier: ImageClassifier,
    config: ModelConfig,
    classes: list[str],
    fit: FitSummary | None = None,
) -> str:
    """Publish weights and description under `checkpoints/<sha256>/`, the description last.

    Args:
        workspace: The workspace's URI.
        classifier: The fitted model.
        config: Configuration to build the model from again.
        classes: Names of the classes that its outputs stand for, in order.
        fit: The fit, if there was one. It becomes part of `model.json`.

    Returns:
        The sha256 of the weights file.
    """
    weights = encoded_weights(classifier, config, classes)
    sha256 = storage.sha256(weights)
    folder = checkpoint_uri(workspace, sha256)
    storage.publish(storage.join(folder, WEIGHTS), weights)
    description = Description(model=config, classes=classes, sha256=sha256, fit=fit)
    storage.publish(storage.join(folder, DESCRIPTION), description.to_json())
    return sha256


def encoded_weights(classifier: ImageClassifier, config: ModelConfig, classes: list[str]) -> bytes:
    """Return the content of `model.safetensors`; arguments as for `save_checkpoint`."""
    architecture = Architecture(model=config, classes=classes).model_dump(mode="json")
    tensors = {
        # Cloned because tied weights share memory, and contiguous because safetensors requires it.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.network.state_dict().items()
    }
    # The header says how to build the model, so the sha256 covers that too.
    return safetensors.torch.save(
        tensors, metadata={"baal_ray": json.dumps(architecture, sort_keys=True)}
    )


def load_checkpoint(uri: str, *, model: ModelConfig | None = None) -> Checkpoint:
    """Read a checkpoint folder and check its weights against the sha256 in its name.

    A checkpoint may come from a stranger, and it names the factory that builds its network. So
    only baal_ray's and torchvision's factories are run because a checkpoint names them, with
    arguments that download nothing. Any other factory must be named by the caller too.

    Args:
        uri: Checkpoint folder, `…/checkpoints/<sha256>`.
        model: Configuration whose factory may be run, with the same arguments.

    Raises:
        LostCheckpointError: If the weights are missing or do not have the sha256 in the name.
        CheckpointError: If the weights do not fit the model, were not written here, or the factory
            may not be run.
        ModelError: If the model cannot be built.
    """
    weights = _verified_weights(uri)
    architecture = _architecture(weights[8 : 8 + _header_length(weights)], uri)
    config, classes = architecture.model, architecture.classes
    _refuse_strangers_code(config, model, uri)
    network = _build_network(config, len(classes))
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {uri} does not fit {config.factory!r}: {error}"
        ) from error
    classifier = ImageClassifier(network, config.mean, config.std, config.prediction_field).eval()
    return Checkpoint(storage.name(uri), config, classes, classifier)


def weights_uri(uri: str) -> str:
    """Return the location of the weights file in a checkpoint folder."""
    return storage.join(uri, WEIGHTS)


def describe(uri: str) -> Description:
    """Read the description in a checkpoint folder.

    Raises:
        LostFileError: If it is missing or damaged.
        FormatError: If another version wrote it.
        StorageError: If it cannot be read.
    """
    return Description.read(storage.join(uri, DESCRIPTION), "No score depends on it.")


def read_architecture(uri: str) -> Architecture:
    """Read the header of a checkpoint's weights file, without the weights.

    Its bytes are not checked. `load_checkpoint` checks them, before anything is scored.

    Raises:
        LostCheckpointError: If the weights are missing, or damaged in the header.
        CheckpointError: If the header describes no model.
    """
    file = weights_uri(uri)
    length = _header_length(_read(file, lambda file: storage.read_range(file, 0, 8)))
    header = _read(file, lambda file: storage.read_range(file, 8, 8 + length))
    try:
        return _architecture(header, uri)
    except CheckpointError:
        _verified_weights(uri)  # raises if they are damaged
        raise


def _verified_weights(uri: str) -> bytes:
    file = weights_uri(uri)
    weights = _read(file, storage.read_needed)
    found = storage.sha256(weights)
    if found != storage.name(uri):
        raise LostCheckpointError(
            file, f"is damaged: its sha256 is {found}, not the one in the folder's name"
        )
    return weights


def _read(file: str, read: Callable[[str], bytes]) -> bytes:
    try:
        return read(file)
    except LostFileError as error:
        raise LostCheckpointError(file, error.fault) from error


def _header_length(weights: bytes) -> int:
    return min(int.from_bytes(weights[:8], "little"), _MOST_HEADER_BYTES)


def _refuse_strangers_code(found: ModelConfig, named: ModelConfig | None, uri: str) -> None:
    """Refuse to run a factory that only the checkpoint names, or to download what it names."""
    call = f"{found.factory!r} with the arguments {found.arguments}"
    if named is not None and _call(found) == _call(named):
        return
    if not is_built_in(found.factory):
        raise CheckpointError(
            f"checkpoint {uri} is built by {call}, which is code that it may not choose. If you "
            "trust it, name the same factory and arguments in the configuration, or pass them as "
            "model=ModelConfig(…)"
        )
    if not all(_is_harmless(*argument) for argument in found.arguments.items()):
        raise CheckpointError(
            f"checkpoint {uri} is built by {call}; a checkpoint's arguments must be numbers, "
            "booleans or lists of them, and must not download weights. Remove the others, and fit "
            "again"
        )


def _call(config: ModelConfig) -> str:
    """Return a factory and its arguments as they are written to a header."""
    chosen = config.model_dump(mode="json", include={"factory", "arguments"})
    return json.dumps(chosen, sort_keys=True)


def _is_harmless(name: str, value: Any) -> bool:
    """Return whether a header's argument of a factory of torchvision's or ours downloads nothing.

    Arguments that do are switched off by a null or False.
    """
    if value is None or value is False:
        return True
    if name.startswith(_DOWNLOADS):
        return False
    if isinstance(value, list):
        return all(_is_harmless(name, each) for each in value)
    return isinstance(value, int | float)


def _architecture(header: bytes, uri: str) -> Architecture:
    try:
        return Architecture.model_validate(
            json.loads(json.loads(header)["__metadata__"]["baal_ray"])
        )
    # pydantic's errors are ValueErrors.
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"checkpoint {uri} was not written by this version of baal_ray: its header does not "
            f"describe a model that can be built ({described(error)}). Fit again"
        ) from error
