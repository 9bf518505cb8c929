"""Refuse randomness that a model has only in training mode, which its posterior would lack.

Dropout is caught wherever it is called, whatever its `training` flag says. But a forward() that
does not call it outside training hides it: `if self.training: …`, attention that gets
`dropout_p=0` unless it is training, or noise that a module draws itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baal_ray.errors import PosteriorError
from baal_ray.posterior.random_events import RandomEvents, named
from baal_ray.posterior.stochastic_depth import is_stochastic_depth


def refuse_training_only(model: nn.Module, probe: Tensor) -> None:
    """Compare the random events of a pass in evaluation mode with those of one in training mode.

    Batch norms and stochastic depth stay in evaluation mode, because they are not dropout. Draws
    of one number for each image are stochastic depth too, whatever module they are in. They are
    refused only if stochastic depth is to be sampled, as they cannot be switched on.

    Args:
        model: The model, in evaluation mode.
        probe: A few images.

    Raises:
        PosteriorError: If there are more in training mode.
    """
    usual, in_training = RandomEvents(), RandomEvents()
    returned = usual.watch(model, probe)
    returned_in_training: object = None
    with (
        training_mode(model),
        suppress(Exception),
    ):  # in training, a model may want more than images
        returned_in_training = in_training.watch(model, probe)
    wanted = any(module.training for module in model.modules() if is_stochastic_depth(module))
    extra = [
        (name, event)
        for name, event in in_training.counts - usual.counts
        if wanted or not event.per_image
    ]
    if type(returned_in_training) is not type(returned):
        # Auxiliary heads, which are there in training only, are no part of the prediction.
        extra = [(name, event) for name, event in extra if name in usual.ran]
    if not extra:
        return
    (name, event), *_ = extra
    raise PosteriorError(
        f"{named(model, name)} {event.does} only in training mode, so posterior samples would "
        f"lack it. {event.remedy}"
    )


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Put all modules in training mode, except batch norms and stochastic depth."""
    modules = [
        module
        for module in model.modules()
        if not module.training
        and not isinstance(module, _BatchNorm)
        and not is_stochastic_depth(module)
    ]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False
