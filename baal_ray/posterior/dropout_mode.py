"""Catch every dropout that a model performs, module or function, and apply given masks instead."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from baal_ray.errors import PosteriorError
from baal_ray.posterior.masks import Masks

# The negative saturation of SELU, where alpha dropout sends what it drops (Klambauer et al. 2017,
# section 3).
_SELU_SATURATION = -1.7580993408473766


@dataclass(frozen=True)
class _Kind:
    """How one of PyTorch's dropout functions drops: what one unit is, and what it becomes."""

    signature: inspect.Signature
    channels: bool = False
    alpha: bool = False
    in_place: bool = False
    # 1d and 3d take an input of this many dimensions for one image without a mini-batch axis.
    unbatched_ndim: int | None = None


def _kind(function: Callable[..., Tensor], **how: Any) -> _Kind:
    return _Kind(inspect.signature(function), **how)


def _aten(input: Tensor, p: float, train: bool) -> Tensor:
    """The signature that PyTorch's built-in dropout functions share."""
    raise AssertionError  # never called


_KINDS: dict[Any, _Kind] = {
    F.dropout: _kind(F.dropout),
    F.dropout1d: _kind(F.dropout1d, channels=True, unbatched_ndim=2),
    F.dropout2d: _kind(F.dropout2d, channels=True),
    F.dropout3d: _kind(F.dropout3d, channels=True, unbatched_ndim=4),
    F.alpha_dropout: _kind(F.alpha_dropout, alpha=True),
    F.feature_alpha_dropout: _kind(F.feature_alpha_dropout, channels=True, alpha=True),
    torch.dropout: _kind(_aten),
    torch.dropout_: _kind(_aten, in_place=True),
    torch.feature_dropout: _kind(_aten, channels=True),
    torch.feature_dropout_: _kind(_aten, channels=True, in_place=True),
    torch.alpha_dropout: _kind(_aten, alpha=True),
    torch.alpha_dropout_: _kind(_aten, alpha=True, in_place=True),
    torch.feature_alpha_dropout: _kind(_aten, channels=True, alpha=True),
    torch.feature_alpha_dropout_: _kind(_aten, channels=True, alpha=True, in_place=True),
}

# Where each takes `dropout_p` among its positional arguments.
_ATTENTION: dict[Any, int] = {
    F.scaled_dot_product_attention: 4,
    F.multi_head_attention_forward: 10,
}


class MaskedDropout(TorchFunctionMode):
    """Within this context a model's dropouts apply `masks`, whatever their `training` flag says.

    Call sites are numbered in the order of the forward pass, so a module used twice is two sites.
    A dropout with p = 0 is none.

    Attributes:
        mask_shapes: the mask's shape at each call site so far.
    """

    def __init__(self, masks: Masks, mini_batch: int) -> None:
        super().__init__()
        if mini_batch == 0:
            raise PosteriorError("the mini-batch has 0 images; it must have at least 1")
        self.mask_shapes: list[tuple[int, ...]] = []
        self._masks = masks
        self._mini_batch = mini_batch

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = _KINDS.get(func)
        if kind is None:
            _refuse_unreachable_dropout(func, args, kwargs)
            return func(*args, **kwargs)
        call = kind.signature.bind(*args, **kwargs)
        call.apply_defaults()
        x, p = call.arguments["input"], call.arguments["p"]
        if p == 0:
            return x
        images = self._by_image(x, kind)
        keep = self._keep(images, p, kind)
        dropped = _apply(images, keep, p, alpha=kind.alpha).flatten(0, 1)
        return x.copy_(dropped) if kind.in_place or call.arguments.get("inplace") else dropped

    def _by_image(self, x: Tensor, kind: _Kind) -> Tensor:
        """A view of x as [N images, rows of x for one image, …]."""
        if x.ndim == kind.unbatched_ndim:
            raise PosteriorError(
                f"a channel dropout sees a tensor of shape {list(x.shape)}, which PyTorch takes "
                "for one image without a mini-batch axis; give it that axis"
            )
        if x.ndim == 0 or len(x) == 0 or len(x) % self._mini_batch:
            raise PosteriorError(
                f"a dropout sees a tensor of shape {list(x.shape)} in a mini-batch of "
                f"{self._mini_batch} images; its first axis must be the mini-batch. Put it there "
                "(batch_first=True), or transpose around the dropout"
            )
        return x.view(self._mini_batch, len(x) // self._mini_batch, *x.shape[1:])

    def _keep(self, images: Tensor, p: float, kind: _Kind) -> Tensor:
        """The mask of the call site that comes next, which broadcasts against its input."""
        shape = tuple(images.shape[1:])
        if kind.channels:
            shape = (*shape[:2], *(1 for _ in shape[2:]))
        site = len(self.mask_shapes)
        self.mask_shapes.append(shape)
        return self._masks.keep(site, shape, p, images.device)


def _apply(x: Tensor, keep: Tensor, p: float, *, alpha: bool) -> Tensor:
    if not alpha:
        return x * (keep.to(x.dtype) / (1 - p) if p < 1 else torch.zeros_like(x))
    # Mean and variance stay 0 and 1 (ibid.): x or the saturation, scaled by a and shifted by b.
    a = 1 / math.sqrt((_SELU_SATURATION**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    b = -a * _SELU_SATURATION * p
    return torch.where(keep, x, _SELU_SATURATION) * a + b


def _refuse_unreachable_dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if func is torch.native_dropout:
        raise PosteriorError(
            "the model calls torch.native_dropout, which cannot be masked; call F.dropout instead"
        )
    if func in _ATTENTION:
        place = _ATTENTION[func]
        p = kwargs.get("dropout_p", args[place] if len(args) > place else 0.0)
        if p > 0:
            raise PosteriorError(
                f"the model calls {func.__name__} with dropout_p={p}, which cannot be masked "
                "inside it; set it to 0 and apply F.dropout to the attention's output"
            )
