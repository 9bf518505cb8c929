import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from baal_ray.config import AugmentationConfig
from baal_ray.training.optimisation import _padded_crop, make_augmentation, mini_batches


@settings(max_examples=200, deadline=None)
@given(
    images=st.integers(1, 300),
    batch_size=st.integers(1, 80),
    workers=st.integers(1, 12),
)
def test_an_epoch_is_every_image_once_in_the_same_steps_everywhere(images, batch_size, workers):
    workers = min(workers, images)  # as the trainer has it
    epochs = [list(mini_batches(images, batch_size, rank, workers)) for rank in range(workers)]
    seen = [
        rank + workers * row
        for rank, steps in enumerate(epochs)
        for rows, _ in steps
        for row in rows.tolist()
    ]
    assert sorted(seen) == list(range(images))
    assert len({len(steps) for steps in epochs}) == 1
    for step in zip(*epochs, strict=True):
        together = sum(len(rows) for rows, _ in step)
        assert together > 0
        assert {images for _, images in step} == {together}
        assert max(len(rows) for rows, _ in step) <= math.ceil(batch_size / workers)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_more_workers_make_as_many_steps(workers):
    # 1000 images in mini-batches of 64 make 16 steps for any number of workers.
    assert len(list(mini_batches(1000, 64, 0, workers))) == 16


def test_the_order_is_another_each_epoch_and_the_same_for_a_seed():
    def epoch(seed):
        torch.manual_seed(seed)
        return torch.cat([rows for rows, _ in mini_batches(100, 8, 0, 1)]).tolist()

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)


def test_gradients_over_workers_are_the_mean_over_the_mini_batch():
    # DDP averages the gradients of all workers' rows: Σ_r (w/n · Σ_i loss_i) / w.
    torch.manual_seed(0)
    inputs_N, labels_N = torch.rand(23, 4), torch.randint(0, 3, (23,))
    weight = nn.Parameter(torch.rand(3, 4))

    def gradient(rows, scale):
        loss = nn.functional.cross_entropy(
            inputs_N[rows] @ weight.T, labels_N[rows], reduction="sum"
        )
        return torch.autograd.grad(loss * scale, weight)[0]

    workers = 3
    epochs = [list(mini_batches(23, 8, rank, workers)) for rank in range(workers)]
    for step in zip(*epochs, strict=True):
        rows = [rank + workers * local for rank, (local, _) in enumerate(step)]
        images = step[0][1]
        averaged = sum(gradient(r, workers / images) for r in rows) / workers
        expected = gradient(torch.cat(rows), 1 / images)
        assert torch.allclose(averaged, expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"horizontal_flip": True},
        {"vertical_flip": True},
        {"rotation": 30.0},
        {"crop_padding": 3},
        {"color_jitter": 0.4},
        {"horizontal_flip": True, "rotation": 180.0, "crop_padding": 1, "color_jitter": 1.0},
    ],
    ids=lambda settings_: " ".join(settings_) or "none",
)
def test_augmented_images_are_uint8_of_the_same_shape_each_changed_by_itself(settings_):
    torch.manual_seed(0)
    one = torch.randint(0, 256, (3, 10, 14), dtype=torch.uint8)
    images_N = one.repeat(16, 1, 1, 1)
    changed_N = make_augmentation(AugmentationConfig(**settings_))(images_N)
    assert (changed_N.dtype, changed_N.shape) == (torch.uint8, images_N.shape)
    assert torch.equal(images_N, one.repeat(16, 1, 1, 1))
    different = len({image.numpy().tobytes() for image in changed_N})
    assert different == 1 if not settings_ else different > 1


def test_flips_are_exact():
    image = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(1, 3, 4, 5)
    torch.manual_seed(0)
    flip = make_augmentation(AugmentationConfig(horizontal_flip=True))
    seen = {flip(image).numpy().tobytes() for _ in range(30)}
    assert seen == {image.numpy().tobytes(), image.flip(3).numpy().tobytes()}


def test_a_padded_crop_shifts_each_way_and_leaves_black():
    torch.manual_seed(0)
    image = torch.full((3, 5, 5), 200, dtype=torch.uint8)
    image[:, 2, 2] = 7
    crop, places = _padded_crop(2), set()
    for _ in range(500):
        shifted = crop(image)
        assert shifted.shape == image.shape
        (row, column), *others = (shifted[0] == 7).nonzero().tolist()
        assert not others
        assert (shifted == 0).sum() == 3 * (25 - (5 - abs(row - 2)) * (5 - abs(column - 2)))
        places.add((row, column))
    assert len(places) == 25
