"""Tests that the mini-batch is found, taken apart and put together on any axis."""

import pytest
import torch

from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis, find_axis, find_order

AXES = [
    MiniBatchAxis(axis, rows, outer)
    for axis in (0, 1, 2)
    for rows in (1, 3)
    for outer in (True, False)
]


def tensor_with(axis, images):
    """Return [5, …, images · rows, …, 6], in which each value is the number of its image."""
    values = torch.arange(images).repeat_interleave(axis.rows)
    if not axis.outer:
        values = torch.arange(images).repeat(axis.rows)
    shape = [5, 6, 7]
    shape[axis.axis] = len(values)
    place = [1, 1, 1]
    place[axis.axis] = len(values)
    return values.view(place).expand(shape)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_unfold_brings_images_to_the_front_and_fold_puts_them_back(axis):
    x = tensor_with(axis, images=4)
    unfolded = axis.unfold(x)
    assert unfolded.shape[:2] == (1, 4)
    for image in range(4):
        assert (unfolded[0, image] == image).all()
    assert torch.equal(axis.fold(unfolded), x)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_tiles_are_the_same_images_for_each_sample(axis):
    x = tensor_with(axis, images=4)
    tiled = axis.tile(x, 3)
    assert tiled.shape[axis.axis] == 3 * x.shape[axis.axis]
    unfolded = axis.unfold(tiled, 3)
    assert unfolded.shape[:2] == (3, 4)
    for sample in range(3):
        assert torch.equal(unfolded[sample], axis.unfold(x)[0])


def test_tiles_keep_channels_last():
    x = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert MiniBatchAxis().tile(x, 5).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_it_is_found_by_what_grows_and_what_changes(axis):
    x = tensor_with(axis, images=4)
    found = find_axis(x.shape, 4, tensor_with(axis, images=5).shape, 5)
    assert found == MiniBatchAxis(axis.axis, axis.rows)
    other = torch.where(x == 3, torch.nan, x.float())
    assert find_order(found, x.float(), other) == (axis if axis.rows > 1 else None)


def test_what_does_not_grow_has_none():
    assert find_axis((4, 7), 4, (4, 7), 5) is None


@pytest.mark.parametrize("other", [(5, 5), (6, 4), (8, 4), (5, 4, 1)])
def test_what_grows_otherwise_is_refused(other):
    with pytest.raises(ValueError, match=r"one axis must grow|argument 2"):
        find_axis((4, 4), 4, other, 5)


def test_what_mixes_images_has_no_order():
    with pytest.raises(ValueError, match="axis 0 mixes up images"):
        find_order(MiniBatchAxis(0, 2), torch.zeros(8), torch.ones(8))
