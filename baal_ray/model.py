"""Build the user's model, load its initial weights, and check it before a GPU is requested."""

import difflib
import io
import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from baal_ray import storage
from baal_ray.config import ModelConfig
from baal_ray.errors import BaalRayError, ModelError, described
from baal_ray.posterior import MCDropout
from baal_ray.posterior.arguments import check_tensors
from baal_ray.posterior.outputs import prediction_of

logger = logging.getLogger(__name__)


class ImageClassifier(nn.Module):
    """A network with its normalisation: uint8 images [N, 3, H, W] → predictions [N, C]."""

    def __init__(
        self,
        network: nn.Module,
        mean: list[float],
        std: list[float],
        field: str | int = "logits",
    ) -> None:
        """Put a normalisation before a network.

        Args:
            network: The network.
            mean: Mean of each channel, in 0…1.
            std: Standard deviation of each channel.
            field: The field that has the prediction, if the network does not return a tensor.
        """
        super().__init__()
        self.network = network
        self.field = field
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images_N: Tensor) -> Tensor:
        """Scale pixels to 0…1, normalise and classify them."""
        return prediction_of(self.returned(images_N), self.field)

    def returned(self, images_N: Tensor) -> object:
        """Return whatever the network returns for images."""
        returned: object = self.network((images_N / 255 - self.mean) / self.std)
        return returned


def small_convnet(num_classes: int, dropout: float = 0.5) -> nn.Module:
    """Build a small network of two convolutions and two linear layers, with dropout.

    The network has about 150,000 weights.

    Args:
        num_classes: Number of classes, C.
        dropout: Dropout probability before each linear layer.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64 * 4 * 4, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, num_classes),
    )


def build_classifier(config: ModelConfig, classes: int) -> ImageClassifier:
    """Build the user's network with fresh or given weights, and its normalisation.

    Raises:
        ModelError: If the factory is unknown, fails or does not return a module, or if the weights
            do not fit.
        PosteriorError: If a tensor of the network is lazy, sparse or on the meta device.
        StorageError: If the file of weights cannot be read.
    """
    network = _build_network(config, classes)
    if config.weights is not None:
        fresh = _load_matching(network, _initial_weights(config), config.weights)
        if fresh:
            logger.warning(
                "%d tensors start fresh because %s has none of their name and shape: %s",
                len(fresh),
                config.weights,
                ", ".join(fresh),
            )
    return ImageClassifier(network, config.mean, config.std, config.prediction_field)


def trained_classifier(config: ModelConfig, classes: int) -> ImageClassifier:
    """Build the user's network with all of its weights from `model.weights`.

    Raises:
        ModelError: As for `build_classifier`, or if the network has a weight that is not given.
        StorageError: If the file of weights cannot be read.
    """
    network = _build_network(config, classes)
    fresh = _load_matching(network, _initial_weights(config), str(config.weights))
    if fresh:
        raise ModelError(
            f"model.weights {str(config.weights)!r} lacks {len(fresh)} tensors of the model by "
            f"name and shape, such as {fresh[0]!r}; if training.epochs is 0, it must hold all of "
            "a model that was trained on these classes"
        )
    return ImageClassifier(network, config.mean, config.std, config.prediction_field)


def check_model(config: ModelConfig, classes: int, *, trained: bool = False) -> None:
    """Build and run the model once on the CPU, to report mistakes before a GPU is requested.

    Args:
        config: Configuration of the model.
        classes: Number of classes, C.
        trained: Whether the model is used as it is, so that all of its weights must be given.

    Raises:
        ModelError: If the model cannot be built, trained or evaluated on images of the configured
            size, or returns another number of classes.
        PosteriorError: If the model cannot be sampled.
        StorageError: If the file of weights cannot be read.
    """
    classifier = (trained_classifier if trained else build_classifier)(config, classes)
    images = torch.randint(0, 256, (2, 3, *config.image_size), dtype=torch.uint8)
    # The model itself, not a trace of it: loading PyTorch's tracer takes longer than all the rest.
    sample = MCDropout(classifier, samples=1, output=config.output).sample(0)
    try:
        with torch.no_grad():
            found = sample(images).shape[-1]
            in_evaluation = classifier.eval().returned(images)
        in_training = classifier.train().returned(images)
    except BaalRayError:
        raise
    except Exception as error:  # the model is the user's code
        raise ModelError(
            f"model {config.factory!r} fails on images of {config.image_size}: {described(error)}"
        ) from error
    if found != classes:
        raise ModelError(
            f"model {config.factory!r} returns {found} classes for num_classes={classes}; its "
            "factory must build a network with num_classes outputs"
        )
    if type(in_training) is not type(in_evaluation):
        raise ModelError(
            f"model {config.factory!r} returns a {type(in_training).__name__} in training and a "
            f"{type(in_evaluation).__name__} in evaluation mode; it must return the same in both. "
            "Switch off its auxiliary outputs in model.arguments"
        )
    prediction_of(in_training, config.prediction_field)


def _build_network(config: ModelConfig, classes: int) -> nn.Module:
    factory = _factory(config.factory)
    try:
        network = factory(num_classes=classes, **config.arguments)
    except Exception as error:  # the factory is the user's code
        raise ModelError(
            f"model {config.factory!r} cannot be built with num_classes={classes} and "
            f"{config.arguments}: {described(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"model factory {config.factory!r} returns a {type(network).__name__}; it must return "
            "an nn.Module"
        )
    check_tensors(network)
    return network


def is_built_in(factory: str) -> bool:
    """Return whether a factory is ours, or one of torchvision's classifiers by its name."""
    return factory == small_convnet.__name__ or factory in _torchvision_classifiers()


def _torchvision_classifiers() -> list[str]:
    models = _torchvision_models()
    names: list[str] = models.list_models(module=models)
    return names


def _factory(name: str) -> Callable[..., nn.Module]:
    if name == small_convnet.__name__:
        return small_convnet
    if ":" in name:
        return _import_factory(name)
    known = _torchvision_classifiers()
    if name not in known:
        close = (
            ", ".join(difflib.get_close_matches(name, known, n=3))
            or "vgg16, mobilenet_v3_large, densenet121"
        )
        raise ModelError(
            f"model.factory is {name!r}; it must be small_convnet, a torchvision classifier "
            f"({close}, …) or package.module:function"
        )
    return partial(_torchvision_models().get_model, name)


def _torchvision_models() -> Any:
    # Imported late: it takes 4 seconds, which workers and actors with other models are spared.
    import torchvision.models

    return torchvision.models


def _import_factory(name: str) -> Callable[..., nn.Module]:
    module_name, function_name = name.split(":", 1)
    try:
        factory: Callable[..., nn.Module] = getattr(import_module(module_name), function_name)
    except Exception as error:  # the module is the user's code
        raise ModelError(
            f"model.factory is {name!r}, which cannot be imported: {described(error)}. It must be "
            "on the Python path of every node. Install it there, or submit the job with its "
            "folder as the working directory"
        ) from error
    return factory


def _initial_weights(config: ModelConfig) -> Mapping[str, Tensor]:
    weights = str(config.weights)
    if weights.endswith((".safetensors", ".pt", ".pth", ".bin")):
        return _weights_file(weights)
    try:
        known = _torchvision_models().get_model_weights(config.factory)
        tensors: Mapping[str, Tensor] = known[weights].get_state_dict(
            progress=False, check_hash=True
        )
    except (KeyError, ValueError) as error:
        raise ModelError(
            f"model.weights is {weights!r}; it must be a .safetensors, .pt, .pth or .bin file, or "
            f"a name that torchvision has for {config.factory!r}, such as DEFAULT"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"model.weights {weights!r} cannot be downloaded: {described(error)}. Download the "
            "file elsewhere and set model.weights to its path or URI"
        ) from error
    return tensors


def _weights_file(uri: str) -> Mapping[str, Tensor]:
    data = storage.read(uri)
    try:
        if uri.endswith(".safetensors"):
            return safetensors.torch.load(data)
        tensors = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises all kinds on a file that is not its own
        raise ModelError(
            f"model.weights {uri!r} cannot be loaded: the file must hold only tensors "
            f"({type(error).__name__}). Write it again with torch.save(model.state_dict(), …)"
        ) from error
    if isinstance(tensors, Mapping) and all(isinstance(t, Tensor) for t in tensors.values()):
        return tensors
    raise ModelError(
        f"model.weights {uri!r} must hold only named tensors; write it again with "
        "torch.save(model.state_dict(), …)"
    )


def _load_matching(network: nn.Module, weights: Mapping[str, Tensor], name: str) -> list[str]:
    """Load the tensors that fit, and return the names of the weights that stay fresh.

    A head for other classes keeps its fresh weights. A counter, such as that of a batch norm, is
    no weight.
    """
    own = network.state_dict()
    fitting = {
        key: value
        for key, value in weights.items()
        if key in own and own[key].shape == value.shape
    }
    if not fitting:
        raise ModelError(
            f"model.weights {name!r} has no tensor that fits the model by name and shape"
        )
    network.load_state_dict(fitting, strict=False)
    return sorted(key for key in own.keys() - fitting.keys() if own[key].is_floating_point())
