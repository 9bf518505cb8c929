"""Image features: the inputs of the last linear layer, which are similar for near-duplicates."""

from typing import Any

import torch
from torch import Tensor, nn

from baal_ray.posterior.dropout.sites import WatchedDropout
from baal_ray.posterior.evaluation_mode import evaluation_mode
from baal_ray.posterior.outputs import Output


@torch.no_grad()
def features(
    classifier: nn.Module, images_N: Tensor, output: str, output_field: str | int | None = None
) -> Tensor:
    """Return the input of the last linear layer in one pass without dropout, [N, D] float32.

    If the model has no linear layer, or the layer's input does not have one row per image, return
    the log-probabilities instead.

    Args:
        classifier: The model.
        images_N: A mini-batch, as the model takes it.
        output: The kind of output that the model returns, "logits" or "log_probs".
        output_field: The field that has the predictions, as for `MCDropout`.
    """
    layers = [module for module in classifier.modules() if isinstance(module, nn.Linear)]
    caught: list[Tensor] = []

    def catch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        caught[:] = inputs[:1]

    hooks = [layers[-1].register_forward_pre_hook(catch)] if layers else []
    try:
        # Dropout that is called as a function may ignore evaluation mode.
        with evaluation_mode(classifier), WatchedDropout():
            predictions = classifier(images_N)
    finally:
        for hook in hooks:
            hook.remove()
    if caught and len(caught[0]) == len(images_N):
        return caught[0].flatten(1).float()
    return Output(output, output_field).log_probs_of(predictions).float()
