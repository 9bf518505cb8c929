"""Check what a posterior is given, before any work starts: the model, its tensors, and images."""

import operator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from baal_ray.errors import PosteriorError


def check_model(model: object) -> None:
    """Check that a model is a module in plain PyTorch.

    Raises:
        PosteriorError: If it is no module, or if it or a part of it was exported.
    """
    modules = model.named_modules() if isinstance(model, nn.Module) else [("", model)]
    for name, module in modules:
        if any(kind.__module__.startswith("torch.export") for kind in type(module).__mro__):
            raise PosteriorError(
                f"{name or 'the model'} was exported by torch.export, which fixed the mode of its "
                "dropouts; it must be a plain module. Use the one that it was exported from"
            )
    if not isinstance(model, nn.Module):
        raise PosteriorError(
            f"the model is {_described(model)}; it must be a torch.nn.Module. Put a function into "
            "the forward() of one"
        )


def check_tensors(model: nn.Module) -> None:
    """Check that the model's parameters and buffers are dense tensors that hold values.

    Raises:
        PosteriorError: If one is lazy, on the meta device or sparse.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            _refuse(name, "lazy", "have a shape. Run the model once on a mini-batch first")
        if tensor.is_meta:
            remedy = "Build the model on a device, or use to_empty() and load its weights first"
            _refuse(name, "on the meta device", f"hold values. {remedy}")
        if tensor.layout != torch.strided:
            _refuse(name, f"sparse ({tensor.layout})", "be dense. Convert it with to_dense()")


def _refuse(name: str, found: str, rule: str) -> NoReturn:
    raise PosteriorError(f"the tensor {name} of the model is {found}; it must {rule}")


def check_images(images_N: object) -> None:
    """Check that a mini-batch is a dense tensor of images that holds values.

    Raises:
        PosteriorError: If it is not.
    """
    check_tensor("the mini-batch of images", images_N)
    if isinstance(images_N, Tensor) and (images_N.ndim == 0 or len(images_N) == 0):
        raise PosteriorError(
            f"the mini-batch has shape {list(images_N.shape)}; it must be [N, …] with N at least "
            "1: the first axis counts the images"
        )


def check_first(first_N_K_C: object, images_N: object) -> None:
    """Check log-probabilities of the first samples, which may be None, and their images.

    Raises:
        PosteriorError: If they are no tensors, or do not have the same number of images.
    """
    check_images(images_N)
    if first_N_K_C is None:
        return
    check_tensor("first_N_K_C", first_N_K_C)
    assert isinstance(first_N_K_C, Tensor)
    assert isinstance(images_N, Tensor)
    if first_N_K_C.ndim != 3 or len(first_N_K_C) != len(images_N):
        raise PosteriorError(
            f"first_N_K_C has shape {list(first_N_K_C.shape)}; it must be "
            f"[{len(images_N)} images, samples, classes]"
        )


def check_tensor(what: str, tensor: object) -> None:
    """Check that something is a dense tensor that holds values.

    Args:
        what: The subject of a sentence about it.
        tensor: The object to check.

    Raises:
        PosteriorError: If it is not.
    """
    if not isinstance(tensor, Tensor):
        raise PosteriorError(
            f"{what} is {_described(tensor)}; it must be a torch.Tensor. Make one with "
            "torch.as_tensor, or torch.stack for a list of tensors"
        )
    if tensor.is_meta:
        raise PosteriorError(f"{what} is on the meta device; it must hold values on a device")
    if tensor.layout != torch.strided:
        raise PosteriorError(
            f"{what} is sparse ({tensor.layout}); it must be dense. Convert it with to_dense()"
        )


def _described(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{'the class' if kind is value else 'a'} {module}{kind.__qualname__}"


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """Return a value as an int, if it is a whole number of an integer type.

    Raises:
        PosteriorError: If it is of another type, such as float or bool, or too small.
    """
    rule = "a whole number" if least is None else f"a whole number, at least {least}"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or (least is not None and number < least):
        raise PosteriorError(f"{name} is {value!r}; it must be {rule}")
    return number
