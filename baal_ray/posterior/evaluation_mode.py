"""Run a model as it predicts, and put its modes back afterwards."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# In training mode these leave out the block before them at random, and do nothing else.
_STOCHASTIC_DEPTH = {"StochasticDepth", "DropPath"}


@contextmanager
def evaluation_mode(model: nn.Module, *, stochastic_depth: bool = False) -> Iterator[None]:
    """Evaluation mode for the block; each module's own mode afterwards.

    Args:
        model: any module.
        stochastic_depth: whether blocks are left out at random as in training.
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
        # By train() first, which some modules override to do more: LoRA merges its weights.
        for module, training in modes:
            if module.training != training:
                module.train(training)
        for module, training in modes:
            module.training = training


def is_stochastic_depth(module: nn.Module) -> bool:
    """Whether a module is one of torchvision's or timm's, or made from one."""
    return any(kind.__name__ in _STOCHASTIC_DEPTH for kind in type(module).__mro__)


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Without `torch.compile`, whose kernels are made for the dropouts they were compiled with."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and it takes a second to load
        yield
        return
    stance = torch.compiler.set_stance("force_eager")
    with stance, torch._dynamo.config.patch(error_on_nested_fx_trace=False):
        yield
