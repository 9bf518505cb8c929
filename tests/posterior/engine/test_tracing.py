"""Tests of traced models, cut where randomness begins."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baal_ray.posterior import MCDropout
from baal_ray.posterior.dropout.interception import MaskedDropout
from baal_ray.posterior.dropout.masks import SharedMasks
from baal_ray.posterior.dropout.sites import Site, find_axes
from baal_ray.posterior.engine.tracing import cut, trace
from baal_ray.posterior.outputs import Output

SAMPLES, IMAGES = 3, 4


class Branches(nn.Module):
    """A model of two branches. One drops out at once, the other after its own convolution."""

    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        early = self.early(F.dropout(x, 0.5))
        late = F.dropout2d(self.late(x).relu_(), 0.5)
        return self.head((early + late).mean(dim=(2, 3)))


def traced(model, samples=1):
    images = torch.rand(IMAGES, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    model.eval().requires_grad_(False)
    axes = find_axes(model, images)
    mode = MaskedDropout(SharedMasks(0, (0,)), IMAGES, axes)
    with mode:
        model(images)
    sites = [Site(*site) for site in zip(axes, mode.mask_shapes, mode.ps, strict=True)]
    graph = trace(model, images, torch.contiguous_format, sites, samples, False, Output())
    return images, sites, graph


def operations(module):
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_trunk_and_tail_are_the_model(samples):
    model = Branches()
    images, sites, graph = traced(model, samples)
    parts = cut(graph)
    masks = SharedMasks(0, range(samples))
    keep = [masks.keep(i, s.mask_shape, s.p, images.device) for i, s in enumerate(sites)]
    tiled = images.repeat(samples, 1, 1, 1)
    between = parts.trunk.module(tiled, *parts.trunk.constants())
    (predictions,) = parts.tail.module(*between, *parts.tail.constants(), *keep)
    for k in range(samples):
        with MaskedDropout(SharedMasks(0, (k,)), IMAGES, [site.axis for site in sites]):
            expected = model(images)
        found = predictions[k * IMAGES : (k + 1) * IMAGES]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_no_mask_touches_is_in_the_trunk():
    _, _, graph = traced(Branches())
    parts = cut(graph)
    convolution = torch.ops.aten.convolution.default
    assert operations(parts.trunk.module).count(convolution) == 1  # `late`
    assert operations(parts.tail.module).count(convolution) == 1  # `early`
    # Of the images themselves and of `late`.
    assert [tuple(x.shape) for x in parts.trunk.results] == [(4, 3, 5, 5), (4, 4, 5, 5)]


def test_what_depends_on_weights_alone_is_neither():
    class Normalised(Branches):
        def forward(self, x):
            return super().forward(x) @ F.softmax(self.head.weight[:, :2] * 3, dim=1)

    _, _, graph = traced(Normalised())
    parts = cut(graph)
    softmax = torch.ops.aten._softmax.default
    assert softmax in operations(parts.tail.constants)
    assert softmax not in operations(parts.tail.module) + operations(parts.trunk.module)


class Deciding(Branches):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Noisy(Branches):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


@pytest.mark.parametrize("model", [Deciding, Noisy])
def test_what_looks_at_values_or_draws_for_itself_is_refused(model):
    with pytest.raises(Exception, match=r"_local_scalar_dense|random numbers itself"):
        traced(model())


READ_BY = {
    "numpy": lambda x: torch.from_numpy(x.cpu().numpy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x)),
    "from_dlpack": lambda x: torch.from_numpy(np.from_dlpack(x.detach())),
    "tolist": lambda x: torch.tensor(x.tolist()),
    "item": lambda x: torch.full_like(x, x[0].item()),
    "memory address": lambda x: x + 0 * x.data_ptr(),
    "storage": lambda x: x + 0 * x.untyped_storage().nbytes(),
}


@pytest.mark.parametrize("read", READ_BY.values(), ids=READ_BY)
def test_what_reads_values_past_pytorch_is_refused(read):
    # While a model is traced its tensors have no memory, so what is read there is arbitrary.
    class Reading(Branches):
        def forward(self, x):
            dark = read(x.mean((1, 2, 3))) < 0.4
            return super().forward(x + 2 * dark.float()[:, None, None, None])

    with pytest.raises(Exception, match=r"reads a tensor.s values|_local_scalar_dense"):
        traced(Reading())


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(x, scale=3.0):
        return x.abs() * scale

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(3)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3


FUNCTIONS = {
    "of old": Double.apply,
    "with a context of its own": Scaled.apply,
    "in place": lambda x: InPlace.apply(x + 0),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize("early", [True, False])
def test_custom_autograd_functions_are_traced(function, early):
    class Model(nn.Sequential):
        def forward(self, x):
            x = self[0](x.flatten(1))
            x = F.dropout(function(x), 0.5) if early else function(F.dropout(x, 0.5))
            return self[1](x)

    held_against_the_model(Model(nn.Linear(75, 8), nn.Linear(8, 2)))


class Counting(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(75, 8), nn.Linear(8, 2))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.calls += 1
        x = self[0](x.flatten(1))
        self.mean.mul_(0.9).add_(x.mean(dim=0))
        return self[1](F.dropout(x, 0.5))


class ScaledInPlace(nn.Sequential):
    """A model that fills a part of a tensor made of its weights, as Swin V2 does."""

    def forward(self, x):
        weight = self[0].weight.clone()
        weight[:4].mul_(self[1].bias[0].exp())
        return self[1](F.dropout(F.linear(x.flatten(1), weight), 0.5))


@pytest.mark.parametrize(
    "model",
    [Counting(), ScaledInPlace(nn.Linear(75, 8), nn.Linear(8, 2))],
    ids=["buffers", "weights"],
)
def test_what_a_forward_overwrites_besides_its_images_is_traced(model):
    held_against_the_model(model)
    for name, buffer in model.named_buffers():
        assert not buffer.any(), name


def held_against_the_model(model):
    model.eval()
    images = torch.rand(IMAGES, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    posterior = MCDropout(model, SAMPLES, frozen=True)  # a warning would be an error
    found = posterior.log_probs(images)
    again = copy.deepcopy(model)
    expected = torch.stack(
        [MCDropout(again, SAMPLES).sample(k)(images) for k in range(SAMPLES)], 1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert found.std(dim=1).min() > 0


def test_autocast_inside_a_model_rounds_as_outside():
    class Model(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                x = self[1](F.dropout(self[0](x.flatten(1)).relu(), 0.5))
            return x.float()

    torch.manual_seed(0)
    model, images = Model(nn.Linear(75, 32), nn.Linear(32, 4)).eval(), torch.rand(6, 3, 5, 5)
    posterior = MCDropout(model, 3, frozen=True)  # a warning would be an error
    expected = torch.stack([posterior.sample(k)(images) for k in range(3)], dim=1)
    torch.testing.assert_close(posterior.log_probs(images), expected, rtol=0, atol=0.05)
