"""Run a model in evaluation mode, and restore its modes afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from baal_ray.posterior.stochastic_depth import is_stochastic_depth


@contextmanager
def evaluation_mode(model: nn.Module, *, stochastic_depth: bool = False) -> Iterator[None]:
    """Put a model in evaluation mode for the block, and restore each module's mode afterwards.

    Args:
        model: Any module.
        stochastic_depth: Whether blocks are left out at random as in training.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in modes:
        if stochastic_depth and is_stochastic_depth(module):
            module.training = True
    try:
        with _uncompiled():
            yield
    finally:
        # First by train(), which some modules override to do more: LoRA merges its weights in it.
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training


def has_own_modes(model: nn.Module) -> bool:
    """Return whether a module does more than PyTorch's when its mode changes.

    LoRA merges its weights then, so what was traced in evaluation mode must run in it as well.
    """
    return any(type(module).train is not nn.Module.train for module in model.modules())


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Disable `torch.compile`, as its kernels are tied to the dropouts they were compiled with."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing it takes a second
        yield
        return
    stance = torch.compiler.set_stance("force_eager")
    with stance, torch._dynamo.config.patch(error_on_nested_fx_trace=False):
        yield
