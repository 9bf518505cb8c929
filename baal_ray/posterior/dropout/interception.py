"""Catch every dropout of a model, be it a module or a function, and apply masks instead."""

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.masks import Masks
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis

# The negative saturation of SELU, the value that alpha dropout gives to dropped units (Klambauer
# et al. 2017, section 3).
_SELU_SATURATION = -1.7580993408473766


@dataclass(frozen=True)
class Kind:
    """The behaviour of one of PyTorch's dropout functions: its units, and their dropped value."""

    signature: inspect.Signature
    channels: bool = False
    alpha: bool = False
    in_place: bool = False
    # 1d and 3d treat an input of this number of dimensions as one image without mini-batch axis.
    unbatched_ndim: int | None = None


def _kind(function: Callable[..., Tensor], **how: Any) -> Kind:
    return Kind(inspect.signature(function), **how)


def _aten(input: Tensor, p: float, train: bool) -> Tensor:
    """The signature that PyTorch's built-in dropout functions share."""
    raise AssertionError  # never called


_KINDS: dict[Any, Kind] = {
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

# PyTorch's attention in plain operations. The original first checks whether a mode like ours is
# active, and if so leaves everything to it. This copy does not check.
_attention = FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.__dict__, "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)
_ATTENTION = inspect.signature(F.multi_head_attention_forward)
# Functions that PyTorch's own dropout functions call in turn.
_BELOW_REACH = {
    torch.native_dropout,
    torch.ops.aten.dropout,
    torch.ops.aten.dropout.default,
    torch.ops.aten.native_dropout,
    torch.ops.aten.native_dropout.default,
}


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Tensor:
    """The signature of PyTorch's fused attention, which has none that Python can read."""
    raise AssertionError  # never called


#: Signature of `F.scaled_dot_product_attention`.
FUSED_ATTENTION = inspect.signature(_fused_attention)


class CaughtDropout(TorchFunctionMode):
    """A context in which `drop` replaces each dropout of a model, whatever `training` says.

    Call sites are numbered in the order of the forward pass, so a module used twice is two sites.
    A dropout with p = 0 does not count. `nn.MultiheadAttention` has one site, on the attention
    weights.

    Attributes:
        sites: Number of call sites so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites = 0

    @abstractmethod
    def drop(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        """Return the tensor that replaces x at the next call site."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        kind = _KINDS.get(func)
        if kind is not None:
            return self._caught(kind, args, kwargs)
        if func is F.multi_head_attention_forward:
            return self._attend(args, kwargs)
        if func is Tensor.bernoulli_:
            return self._keep_at_random(*args, **kwargs)
        _refuse_unreachable_dropout(func, args, kwargs)
        return func(*args, **kwargs)

    def _caught(self, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        call = kind.signature.bind(*args, **kwargs)
        call.apply_defaults()
        x: Tensor = call.arguments["input"]
        p: float = call.arguments["p"]
        if p == 0:
            return x
        dropped = self.drop(x, p, kind)
        self.sites += 1
        if kind.in_place or call.arguments.get("inplace"):
            dropped = x.copy_(dropped)
        return dropped

    def _keep_at_random(self, x: Tensor, p: float = 0.5, *, generator: object = None) -> Tensor:
        """Fill x with ones with probability p and zeros otherwise, as stochastic depth does."""
        if not isinstance(p, float) or p in (0, 1):
            return x.bernoulli_(p)
        kept = self.drop(torch.ones_like(x), 1 - p, _KINDS[F.dropout])
        self.sites += 1
        return x.copy_(kept != 0)

    def _attend(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _ATTENTION.bind(*args, **kwargs)
        if call.arguments["dropout_p"] == 0:
            return F.multi_head_attention_forward(*args, **kwargs)
        wanted = call.arguments.get("need_weights", True)
        # Asked for its weights, attention is softmax, dropout and a product, not one fused kernel.
        call.arguments.update(training=True, need_weights=True)
        with self:
            output, weights = _attention(*call.args, **call.kwargs)
        return output, weights if wanted else None


class MaskedDropout(CaughtDropout):
    """A context in which a model's dropouts apply `masks`.

    Attributes:
        mask_shapes: Shape of one image's mask at each call site so far.
        ps: Share of units dropped at each call site so far.
    """

    def __init__(
        self,
        masks: Masks,
        images: int,
        axes: Sequence[MiniBatchAxis | None] | None = None,
        samples: int = 1,
    ) -> None:
        """Prepare to mask a forward pass.

        Args:
            masks: Masks of `samples` posterior samples.
            images: Number of images, N. The mini-batch has N times `samples` rows: all images
                under the first sample's masks, then all under the second's, …
            axes: The mini-batch axis of each call site's input, or None where the input depends on
                no image. By default it is the first axis everywhere.
            samples: Number of posterior samples, K.
        """
        super().__init__()
        self.mask_shapes: list[tuple[int, ...]] = []
        self.ps: list[float] = []
        self._masks = masks
        self._images = images
        self._axes = axes
        self._samples = samples

    def drop(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        """Return x under the posterior samples' masks."""
        if x.ndim == kind.unbatched_ndim:
            raise PosteriorError(
                f"a channel dropout gets a tensor of shape {list(x.shape)}, which PyTorch treats "
                "as one image without a mini-batch axis; give it that axis"
            )
        axis = self._axis(x)
        unit = tuple((axis.unfold(x, self._samples) if axis else x[None, None]).shape[2:])
        shape = (*unit[:2], *(1 for _ in unit[2:])) if kind.channels else unit
        self.mask_shapes.append(shape)
        self.ps.append(p)
        keep = self._masks.keep(self.sites, shape, p, x.device)
        return self.apply(x, keep, p, kind.alpha, axis)

    def _axis(self, x: Tensor) -> MiniBatchAxis | None:
        axis: MiniBatchAxis | None
        if self._axes is None:
            axis = MiniBatchAxis(0, max(1, len(x) // self._images) if x.ndim else 1)
        elif self.sites < len(self._axes):
            axis = self._axes[self.sites]
        else:
            raise PosteriorError(
                f"the model calls dropout {len(self._axes)} times in one forward pass and more "
                "often in another; the number must be the same in every pass"
            )
        rows = self._samples * self._images
        if axis and (x.ndim <= axis.axis or x.shape[axis.axis] != rows * axis.rows):
            raise PosteriorError(
                f"a dropout gets a tensor of shape {list(x.shape)} in a mini-batch of {rows} "
                f"images; the size of its axis {axis.axis} must be a multiple of the mini-batch"
            )
        return axis

    def apply(
        self, x: Tensor, keep: Tensor, p: float, alpha: bool, axis: MiniBatchAxis | None
    ) -> Tensor:
        """Return x under masks [K, N or 1, *mask_shape]."""
        return apply_mask(x, keep, p, alpha, axis)


def apply_mask(
    x: Tensor, keep: Tensor, p: float, alpha: bool, axis: MiniBatchAxis | None
) -> Tensor:
    """Return x with units dropped and the others scaled, as PyTorch does it.

    Args:
        x: Any tensor.
        keep: Masks [K, N or 1, *mask_shape], True where a unit is kept.
        p: Share of units that are dropped.
        alpha: Whether units are dropped to SELU's saturation instead of 0.
        axis: The mini-batch axis of x, or None if x depends on no image.
    """
    if axis is None:
        return _masked(x, keep[0, 0], p, alpha)
    return axis.fold(_masked(axis.unfold(x, len(keep)), keep, p, alpha))


def _masked(x: Tensor, keep: Tensor, p: float, alpha: bool) -> Tensor:
    if not alpha:
        return x * (keep.to(x.dtype) / (1 - p) if p < 1 else torch.zeros_like(x))
    # x or the saturation, scaled by a and shifted by b, so that mean 0 and variance 1 are kept
    # (Klambauer et al. 2017, section 3).
    a = 1 / math.sqrt((_SELU_SATURATION**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    b = -a * _SELU_SATURATION * p
    return torch.where(keep, x, _SELU_SATURATION) * a + b


def _refuse_unreachable_dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if func in _BELOW_REACH:
        raise PosteriorError(
            f"the model calls {func}, which cannot be masked; call F.dropout instead"
        )
    if func is F.scaled_dot_product_attention:
        p = FUSED_ATTENTION.bind(*args, **kwargs).arguments.get("dropout_p", 0.0)
        if p > 0:
            raise PosteriorError(
                f"the model calls {func.__name__} with dropout_p={p}; dropout inside it cannot be "
                "masked. Set dropout_p to 0 and apply F.dropout to the attention's output"
            )
