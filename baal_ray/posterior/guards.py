"""Refuse a model whose posterior samples would be missing, wrong or someone else's.

It is run on a few images, and what it does there is held against what a posterior sample is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout_mode import MaskedDropout
from baal_ray.posterior.masks import SharedMasks
from baal_ray.posterior.outputs import check_output, log_probs_of

#: Images looked at.
PROBE = 4

# What two passes over the same image may differ by, as a share of what other masks change:
# kernels are chosen by shape, which makes 1e-5 of it in float32, about a hundredth in bfloat16.
_TOLERANCE = 0.05
_MASKS_TRIED = 4

# Of a log-probability, where the masks happen to change nothing.
_ROUNDING = 1e-4


def check_posterior(model: nn.Module, images: Tensor, output: str) -> None:
    """Draw from the model a few times on at most `PROBE` images.

    Args:
        model: the model, in evaluation mode.
        images: a mini-batch [N, ...], N ≥ 1.
        output: what the model is declared to return.

    Raises:
        PosteriorError: no dropout is reached, or not each of them, or the model is not a function
            of its input and masks, or an image's prediction depends on the others, or the output
            is not what was declared.
    """
    refuse_hidden_dropout(model)
    probe = _with_neighbour(images[:PROBE])
    mode = _mode(0, probe)
    with _watch_dropouts(model, mode) as missed, mode:
        predictions = model(probe)
    _check_reached(mode, missed)
    log_probs = log_probs_of(predictions, output)
    check_output(predictions, len(probe), output)

    def draw(k: int) -> Tensor:
        with _mode(k, probe):
            return log_probs_of(model(probe), output)

    tolerance = max(
        _ROUNDING, _TOLERANCE * max(_distance(log_probs, draw(k)) for k in range(1, _MASKS_TRIED))
    )
    if (difference := _distance(log_probs, draw(0))) > tolerance:
        raise PosteriorError(
            "the model gives another result each time on the same images and masks "
            f"(log-probabilities differ by {difference:.2g}); take out what else is random in it"
        )
    _check_neighbours(model, probe, output, mode.mask_shapes, log_probs, tolerance)


def refuse_hidden_dropout(model: nn.Module) -> None:
    """Refuse modules whose dropout happens where no mask reaches it.

    Raises:
        PosteriorError: `nn.MultiheadAttention` or a recurrent module has dropout > 0, or a
            scripted module has any.
    """
    for name, module in model.named_modules():
        where = f"{name or 'the model'} is a {type(module).__name__}"
        if isinstance(module, nn.MultiheadAttention | nn.RNNBase) and module.dropout > 0:
            raise PosteriorError(
                f"{where} with dropout={module.dropout}, which PyTorch applies inside a fused "
                "kernel where no posterior sample can reach it; build it with dropout=0, which "
                "takes the same weights, and put an nn.Dropout after it"
            )
        if isinstance(module, torch.jit.ScriptModule) and _scripts_dropout(module):
            raise PosteriorError(
                f"{where} with dropout inside, where no posterior sample can reach it; use the "
                "plain module that it was scripted or traced from"
            )


def _scripts_dropout(module: torch.jit.ScriptModule) -> bool:
    # Containers such as a scripted ModuleList have no graph of their own; what they hold has.
    return module._c._has_method("forward") and "dropout" in str(module.inlined_graph)


def _mode(k: int, images: Tensor) -> MaskedDropout:
    # Shared masks whatever the user's are: an image then keeps its masks when it is moved.
    return MaskedDropout(SharedMasks(0, k), len(images))


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference between two sets of log-probabilities; NaN counts as none."""
    smallest = -1e4  # −∞ less −∞ is no number
    return (one.clamp(smallest) - other.clamp(smallest)).abs().nan_to_num().max().item()


def _with_neighbour(images: Tensor) -> Tensor:
    return images if len(images) > 1 else torch.cat([images, torch.zeros_like(images)])


def _check_reached(mode: MaskedDropout, missed: Sequence[str]) -> None:
    if missed:
        raise PosteriorError(
            f"dropout is not reached at {', '.join(missed)}, though its parent runs: a fused path "
            "goes around it. Set its p to 0, or call it in forward()"
        )
    if not mode.mask_shapes:
        raise PosteriorError(
            "the model has no dropout with p > 0 on its way from images to predictions, so all "
            "its posterior samples are the same and every BALD score would be 0; add a dropout "
            "layer (torchvision's VGG, AlexNet, MobileNet and EfficientNet have one; ResNet has "
            "none)"
        )


def _check_neighbours(
    model: nn.Module,
    probe: Tensor,
    output: str,
    mask_shapes: list[tuple[int, ...]],
    log_probs: Tensor,
    tolerance: float,
) -> None:
    """The first image again, last in a larger mini-batch of others: white ones, unlike any."""
    white = torch.full_like(probe, probe.nan_to_num().max().item())
    others = torch.cat([white, probe[:1]])
    mode = _mode(0, others)
    with mode:
        moved = log_probs_of(model(others), output)
    if mode.mask_shapes != mask_shapes:
        raise PosteriorError(
            f"dropout masks change with the mini-batch (shapes {mask_shapes} for {len(probe)} "
            f"images, {mode.mask_shapes} for {len(others)}): some dropout sees a tensor whose "
            "first axis is not the mini-batch. Put it there (batch_first=True), or transpose "
            "around the dropout"
        )
    if (difference := _distance(log_probs[:1], moved[-1:])) > tolerance:
        raise PosteriorError(
            "the model lets an image's prediction depend on the others in its mini-batch: its "
            f"log-probabilities differ by {difference:.2g} in other company. Look for statistics "
            "over the mini-batch, such as a BatchNorm without running averages, and for a dropout "
            "that sees rows of several images in turn"
        )


@contextmanager
def _watch_dropouts(model: nn.Module, mode: MaskedDropout) -> Iterator[list[str]]:
    """Once the block has ended, the dropouts that caught no mask while their parent ran."""
    missed: list[str] = []
    ran: set[nn.Module] = set()
    masked: set[nn.Module] = set()
    before: list[int] = []

    def enter(module: nn.Module, _: object) -> None:
        before.append(len(mode.mask_shapes))

    def leave(module: nn.Module, _: object, __: object) -> None:
        ran.add(module)
        if len(mode.mask_shapes) > before.pop():
            masked.add(module)

    handles = [
        handle
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)  # takes no hooks
        for handle in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        )
    ]
    try:
        yield missed
    finally:
        for handle in handles:
            handle.remove()
    missed.extend(
        f"{parent_name}.{name}".lstrip(".")
        for parent_name, parent in model.named_modules()
        for name, child in parent.named_children()
        if parent in ran and isinstance(child, _DropoutNd) and child.p > 0 and child not in masked
    )
