"""A kernel for GPUs that adds a bias, another tensor and an activation in one pass over memory."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ACTIVATIONS = ("none", "relu", "relu6", "silu", "hardswish")

# Elements per program: enough loads at once to keep a GPU's memory busy.
_TILE = 4096


def add_bias_in_place(
    x_N: Tensor, bias_C: Tensor, other_N: Tensor | None, activation: str
) -> None:
    """Overwrite x with activation(x + bias + other), computed in float32.

    Args:
        x_N: Features [N, C, H, W], channels last, of any floating-point type.
        bias_C: Bias [C].
        other_N: Tensor to add, shaped and laid out like x; None for nothing.
        activation: One of `ACTIVATIONS`.
    """
    channels = len(bias_C)
    rows = x_N.numel() // channels
    aligned = next(size for size in (16, 8, 4, 2, 1) if channels % size == 0)
    block_channels = min(_TILE, triton.next_power_of_2(channels))
    block_rows = _TILE // block_channels
    with torch.cuda.device_of(x_N):
        _kernel[triton.cdiv(rows, block_rows), triton.cdiv(channels, block_channels)](
            x_N,
            bias_C,
            x_N if other_N is None else other_N,
            rows,
            channels // aligned,
            ALIGNED=aligned,
            ADDS_OTHER=other_N is not None,
            ACTIVATION=activation,
            BLOCK_ROWS=block_rows,
            BLOCK_CHANNELS=block_channels,
        )


@triton.jit
def _kernel(
    x_pointer,
    bias_pointer,
    other_pointer,
    rows,
    channel_groups,
    ALIGNED: tl.constexpr,
    ADDS_OTHER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    # Channels are counted in groups of ALIGNED, so that the compiler knows how many neighbours it
    # can load at once.
    channels = channel_groups * ALIGNED
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = (row < rows)[:, None] & (channel < channels)[None, :]
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    bias = tl.load(bias_pointer + channel, mask=channel < channels, other=0.0).to(tl.float32)
    y = tl.load(x_pointer + place, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    if ADDS_OTHER:
        y += tl.load(other_pointer + place, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "relu":
        y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "relu6":
        y = tl.clamp(y, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACTIVATION == "silu":
        y = y / (1.0 + tl.exp(-y))
    elif ACTIVATION == "hardswish":
        y = y * tl.clamp(y + 3.0, 0.0, 6.0, propagate_nan=tl.PropagateNan.ALL) / 6.0
    tl.store(x_pointer + place, y.to(x_pointer.dtype.element_ty), mask=inside)
