"""Recognise stochastic depth: modules that leave out the block before them at random in training.

Huang et al. 2016, https://arxiv.org/abs/1603.09382.
"""

import copy
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# The names of classes in torchvision, timm and transformers (ConvNextDropPath) end so.
_NAMES = ("StochasticDepth", "DropPath")

# Images of a trial. If p is 0.01, one of them is left out in all but 4 trials of 100,000.
_TRIED = 1024

# A module's settings when it was tried, and the result.
_tried: WeakKeyDictionary[nn.Module, tuple[dict[str, Any], bool]] = WeakKeyDictionary()


def is_stochastic_depth(module: nn.Module) -> bool:
    """Return whether a module is stochastic depth, by its name or by its behaviour.

    Modules without tensors and submodules are tried. In evaluation mode, stochastic depth returns
    its input. In training mode it multiplies each image by 0 or by the same factor, 1/(1 − p).
    """
    if any(kind.__name__.endswith(_NAMES) for kind in type(module).__mro__):
        return True
    if type(module).__module__.startswith("torch.nn.") or not _is_bare(module):
        return False
    settings = _settings(module)
    if module not in _tried or _tried[module][0] != settings:
        _tried[module] = settings, _behaves_so(module)
    return _tried[module][1]


def _is_bare(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return not tensors and not any(module.children())


def _settings(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and isinstance(value, int | float | str)
    }


def _behaves_so(module: nn.Module) -> bool:
    images_N = torch.linspace(1, 2, 8 * _TRIED).reshape(_TRIED, 2, 2, 2)
    with suppress(Exception), torch.random.fork_rng([]), torch.no_grad():  # it is the user's code
        module = copy.deepcopy(module)
        if torch.equal(module.eval()(images_N.clone()), images_N):
            return _drops_whole_images(module.train()(images_N.clone()) / images_N)
    return False


def _drops_whole_images(factors_N: Tensor) -> bool:
    """Return whether there is one factor per image, which is 0 or the same for all, at least 1."""
    factor_N = factors_N.flatten(1)[:, :1]
    kept = factor_N[factor_N != 0]
    return bool(
        factors_N.flatten(1).allclose(factor_N)
        and (len(kept) < len(factor_N) or kept[0] > 1)
        and (not len(kept) or (kept.allclose(kept[0]) and kept[0] > 1 - 1e-6))
    )
