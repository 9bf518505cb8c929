"""A fitted model on disk, named by the sha256 of its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch

from baal_ray import storage
from baal_ray.config import ModelConfig
from baal_ray.errors import CheckpointError, StorageError, described
from baal_ray.model import ImageClassifier, _build_network
from baal_ray.workspace import checkpoint_uri

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass(frozen=True)
class Checkpoint:
    """A fitted model.

    Attributes:
        sha256: of `model.safetensors`; its name everywhere.
        config: how the network is built and fed.
        classes: the names that its outputs stand for, in order.
        description: `model.json`: config, classes and what is known of the fit.
        classifier: in evaluation mode, on the CPU.
    """

    sha256: str
    config: ModelConfig
    classes: list[str]
    description: Mapping[str, Any]
    classifier: ImageClassifier


def save_checkpoint(
    workspace: str,
    classifier: ImageClassifier,
    config: ModelConfig,
    classes: list[str],
    fit: Mapping[str, Any],
) -> str:
    """Publish weights and description under `checkpoints/<sha256>/`, the description last.

    Args:
        workspace: the workspace's URI.
        classifier: what was fitted.
        config: how to build it again.
        classes: the names of its outputs, in order.
        fit: what is known of the fit: metrics, data; becomes part of `model.json`.

    Returns:
        The sha256 of the weights file.
    """
    architecture = {"model": config.model_dump(mode="json"), "classes": classes}
    tensors = {
        # Cloned as tied weights share memory, row by row as safetensors wants them.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.network.state_dict().items()
    }
    # The header carries what the weights mean, so that the sha256 vouches for it too.
    weights = safetensors.torch.save(
        tensors, metadata={"baal_ray": json.dumps(architecture, sort_keys=True)}
    )
    sha256 = storage.sha256(weights)
    folder = checkpoint_uri(workspace, sha256)
    storage.publish(storage.join(folder, WEIGHTS), weights)
    description = {**architecture, "sha256": sha256, "fit": dict(fit)}
    storage.publish(storage.join(folder, DESCRIPTION), json.dumps(description, indent=2).encode())
    return sha256


def load_checkpoint(uri: str) -> Checkpoint:
    """Read a checkpoint folder and check its weights against the sha256 that it is named by.

    Raises:
        CheckpointError: a file is missing, the weights are not the ones named, or they do not fit
            the model.
    """
    sha256 = uri.rstrip("/").rsplit("/", 1)[-1]
    try:
        weights = storage.read(storage.join(uri, WEIGHTS))
        description = json.loads(storage.read(storage.join(uri, DESCRIPTION)))
    except (StorageError, ValueError) as error:
        raise CheckpointError(f"checkpoint {uri} is incomplete: {error}") from error
    found = storage.sha256(weights)
    if found != sha256:
        raise CheckpointError(
            f"checkpoint {uri} holds weights with sha256 {found}; they are not the ones it is "
            "named by. Fit again, or restore the folder"
        )
    config, classes = _architecture(weights, uri)
    network = _build_network(config, len(classes))
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"checkpoint {uri} does not fit {config.factory!r}: {error}"
        ) from error
    classifier = ImageClassifier(network, config.mean, config.std).eval()
    return Checkpoint(sha256, config, classes, description, classifier)


def describe(checkpoint: str) -> dict[str, Any]:
    """What a checkpoint says of itself, read without its weights."""
    description: dict[str, Any] = json.loads(storage.read(storage.join(checkpoint, DESCRIPTION)))
    return description


def _architecture(weights: bytes, uri: str) -> tuple[ModelConfig, list[str]]:
    header_length = int.from_bytes(weights[:8], "little")
    try:
        header = json.loads(weights[8 : 8 + header_length])
        architecture = json.loads(header["__metadata__"]["baal_ray"])
        return ModelConfig.model_validate(architecture["model"]), architecture["classes"]
    except (KeyError, TypeError, ValueError) as error:  # pydantic's are ValueErrors
        raise CheckpointError(
            f"checkpoint {uri} was not written by this version of baal_ray: its header describes "
            f"no model that can be built ({described(error)})"
        ) from error
