"""Say which type of images a model takes, if it fails on another type."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from baal_ray.errors import BaalRayError, PosteriorError
from baal_ray.posterior.dropout.sites import WatchedDropout


@contextmanager
def type_of_images_named(model: nn.Module, probe: Tensor) -> Iterator[None]:
    """Name the type and device of images as the fault, if the block fails and others would do.

    Many models convert their images, so the type can only be judged by trying. If the model runs
    on the same images in the type and on the device of its weights, these are the remedy.

    Args:
        model: The model, in evaluation mode.
        probe: A few images, on which the block runs the model.

    Raises:
        PosteriorError: If the block fails because of the images' type or device.
        Exception: Any other error of the block.
    """
    try:
        yield
    except BaalRayError:
        raise
    except Exception as error:
        weight = next((each for each in model.parameters() if each.is_floating_point()), None)
        if weight is None or not _runs(model, probe.to(weight.device, weight.dtype)):
            raise
        if probe.dtype != weight.dtype:
            raise PosteriorError(
                f"the mini-batch has dtype {probe.dtype}, on which the model fails; it must have "
                f"that of the model's weights. Convert it with images_N.to({weight.dtype}), and "
                f"scale it as for training: {error}"
            ) from error
        if probe.device != weight.device:
            raise PosteriorError(
                f"the mini-batch is on {probe.device}, on which the model fails; it must be where "
                f"the model's weights are. Move it with images_N.to({str(weight.device)!r}): "
                f"{error}"
            ) from error
        raise


def _runs(model: nn.Module, probe: Tensor) -> bool:
    try:
        with torch.no_grad(), WatchedDropout():
            model(probe.clone())
    except Exception:  # noqa: BLE001  a model's code may raise anything
        return False
    return True
