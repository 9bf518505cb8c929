"""Tests of every kind of dropout that PyTorch has, compared with PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior.dropout.interception import MaskedDropout
from baal_ray.posterior.dropout.masks import SharedMasks
from scenarios import inputs

P = 0.3
FLAT, LENGTH, PLANE, VOLUME = (40,), (40, 5), (40, 4, 4), (40, 2, 3, 3)

# The dropout, the shape of an image, and whether whole channels are dropped.
KINDS = {
    "nn.Dropout": (nn.Dropout(P), PLANE, False),
    "nn.Dropout on flat input": (nn.Dropout(P), FLAT, False),
    "nn.Dropout in place": (nn.Dropout(P, inplace=True), FLAT, False),
    "nn.Dropout1d": (nn.Dropout1d(P), LENGTH, True),
    "nn.Dropout2d": (nn.Dropout2d(P), PLANE, True),
    "nn.Dropout2d in place": (nn.Dropout2d(P, inplace=True), PLANE, True),
    "nn.Dropout3d": (nn.Dropout3d(P), VOLUME, True),
    "nn.AlphaDropout": (nn.AlphaDropout(P), FLAT, False),
    "nn.AlphaDropout in place": (nn.AlphaDropout(P, inplace=True), FLAT, False),
    "nn.FeatureAlphaDropout": (nn.FeatureAlphaDropout(P), PLANE, True),
    "F.dropout": (lambda x, train=True: F.dropout(x, P, train), FLAT, False),
    "F.dropout1d": (lambda x, train=True: F.dropout1d(x, P, train), LENGTH, True),
    "F.dropout2d": (lambda x, train=True: F.dropout2d(x, P, train), PLANE, True),
    "F.dropout3d": (lambda x, train=True: F.dropout3d(x, P, train), VOLUME, True),
    "F.alpha_dropout": (lambda x, train=True: F.alpha_dropout(x, P, train), FLAT, False),
    "F.feature_alpha_dropout": (
        lambda x, train=True: F.feature_alpha_dropout(x, P, train),
        PLANE,
        True,
    ),
    "torch.dropout": (lambda x, train=True: torch.dropout(x, P, train), FLAT, False),
    "torch.dropout_": (lambda x, train=True: torch.dropout_(x, P, train), FLAT, False),
    "torch.feature_dropout": (
        lambda x, train=True: torch.feature_dropout(x, P, train),
        PLANE,
        True,
    ),
    "torch.alpha_dropout_": (
        lambda x, train=True: torch.alpha_dropout_(x, P, train),
        FLAT,
        False,
    ),
}
every_kind = pytest.mark.parametrize(
    ("dropout", "shape", "channels"), KINDS.values(), ids=KINDS.keys()
)


def masked(dropout, x, k=0):
    with MaskedDropout(SharedMasks(0, (k,)), len(x)):
        return dropout(x)


def evaluating(dropout):
    """Return the dropout as a model in evaluation mode calls it."""
    return dropout.eval() if isinstance(dropout, nn.Module) else lambda x: dropout(x, False)


def training(dropout):
    return dropout.train() if isinstance(dropout, nn.Module) else dropout


@every_kind
def test_gives_the_values_that_pytorch_gives(dropout, shape, channels):
    # On ones there are two values, kept and dropped. Each kind has its own scale and shift.
    ones = torch.ones(16, *shape)
    ours = masked(evaluating(dropout), ones.clone())
    theirs = training(dropout)(ones.clone())
    kept_and_dropped = torch.unique(theirs.double().round(decimals=5))
    assert len(kept_and_dropped) == 2
    torch.testing.assert_close(torch.unique(ours.double().round(decimals=5)), kept_and_dropped)


@every_kind
def test_drops_what_the_mask_says(dropout, shape, channels):
    # Kept units are scaled and shifted as ones and zeros are. Dropped units are constant.
    images = inputs(4, *shape)
    on_ones = masked(evaluating(dropout), torch.ones(4, *shape))
    on_zeros = masked(evaluating(dropout), torch.zeros(4, *shape))
    expected = on_zeros + images * (on_ones - on_zeros)
    torch.testing.assert_close(masked(evaluating(dropout), images.clone()), expected)


@every_kind
def test_a_unit_is_an_element_or_a_channel(dropout, shape, channels):
    x = masked(evaluating(dropout), torch.ones(2, *shape))
    assert torch.equal(x[0], x[1])  # shared masks
    if len(shape) > 1:
        by_channel = x[0].flatten(1)
        whole = (by_channel == by_channel[:, :1]).all().item()
        assert whole == channels


@every_kind
def test_drops_as_often_as_pytorch(dropout, shape, channels):
    # 200 masks have at least 8,000 units, so 0.005 is one standard deviation.
    low = masked(evaluating(dropout), torch.ones(1, *shape)).min()
    kept = [masked(evaluating(dropout), torch.ones(1, *shape), k) > low for k in range(200)]
    assert torch.stack(kept).float().mean().item() == pytest.approx(1 - P, abs=0.025)


@every_kind
def test_in_place_is_what_is_in_place_in_pytorch(dropout, shape, channels):
    # nn.AlphaDropout takes `inplace` and ignores it.
    images = inputs(4, *shape)
    ours, theirs = images.clone(), images.clone()
    in_place = training(dropout)(theirs).data_ptr() == theirs.data_ptr()
    assert (masked(evaluating(dropout), ours).data_ptr() == ours.data_ptr()) == in_place
    assert in_place or torch.equal(ours, images)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout, nn.Dropout2d])
def test_p_of_0_drops_nothing_and_is_no_site(kind):
    x = inputs(2, 3, 4, 4)
    with MaskedDropout(SharedMasks(0, (0,)), 2) as mode:
        assert torch.equal(kind(0.0).eval()(x), x)
    assert mode.mask_shapes == []


@pytest.mark.parametrize(
    "kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout]
)
def test_p_of_1_is_pytorchs_zeros(kind):
    x = inputs(2, 3, 4, 4)
    assert torch.equal(masked(kind(1.0).eval(), x), kind(1.0).train()(x))


def test_a_module_used_twice_is_two_sites():
    dropout = nn.Dropout(0.5).eval()
    with MaskedDropout(SharedMasks(0, (0,)), 4) as mode:
        once, twice = dropout(torch.ones(4, 40)), dropout(torch.ones(4, 40))
    assert mode.mask_shapes == [(1, 40), (1, 40)]
    assert not torch.equal(once, twice)


def test_rows_of_one_image_in_turn_have_masks_of_their_own():
    # [N · 5, 40] occurs in the windows of a Swin. All images share the five masks.
    with MaskedDropout(SharedMasks(0, (0,)), 4) as mode:
        x = F.dropout(torch.ones(20, 40), 0.5).view(4, 5, 40)
    assert mode.mask_shapes == [(5, 40)]
    assert torch.equal(x[0], x[3])
    assert not torch.equal(x[0, 0], x[0, 1])


def test_one_number_an_image():
    x = masked(lambda x: F.dropout(x, 0.5), torch.ones(6))
    assert len(x.unique()) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_keeps_the_type_and_the_mask(dtype):
    x = inputs(2, 40)
    single = masked(lambda x: F.dropout(x, 0.5), x)
    other = masked(lambda x: F.dropout(x, 0.5), x.to(dtype))
    assert other.dtype == dtype
    assert torch.equal(other == 0, single == 0)


def test_channels_last_stays():
    x = inputs(2, 8, 4, 4).to(memory_format=torch.channels_last)
    dropped = masked(nn.Dropout2d(0.5).eval(), x)
    assert dropped.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(dropped, masked(nn.Dropout2d(0.5).eval(), x.contiguous()))


@pytest.mark.parametrize("dropout", [nn.Dropout1d(0.5), nn.Dropout3d(0.5)])
def test_a_channel_dropout_without_a_mini_batch_axis_is_refused(dropout):
    shape = (4, 3) if isinstance(dropout, nn.Dropout1d) else (4, 3, 2, 2)
    with pytest.raises(PosteriorError, match="give it that axis"):
        masked(dropout, torch.ones(shape))


@pytest.mark.parametrize("shape", [(7, 3), (2, 3), ()])
def test_rows_that_are_not_images_are_refused(shape):
    mode = MaskedDropout(SharedMasks(0, (0,)), 4)
    with mode, pytest.raises(PosteriorError, match="must be a multiple of the mini-batch"):
        F.dropout(torch.ones(shape), 0.5)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.1),
        lambda x: torch.native_dropout(x, 0.5, True),
        lambda x: torch.ops.aten.dropout(x, 0.5, True),
        lambda x: torch.ops.aten.native_dropout(x, 0.5, True),
    ],
)
def test_dropout_inside_a_kernel_is_refused(call):
    with pytest.raises(PosteriorError, match="cannot be masked"):
        masked(call, torch.ones(4, 5, 8))


def test_attention_without_dropout_passes():
    x = inputs(4, 5, 8)
    expected = F.scaled_dot_product_attention(x, x, x)
    assert torch.equal(masked(lambda x: F.scaled_dot_product_attention(x, x, x), x), expected)
