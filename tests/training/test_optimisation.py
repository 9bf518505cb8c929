import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from baal_ray.config import AugmentationConfig, ModelConfig, TrainingConfig
from baal_ray.training.optimisation import (
    _padded_crop,
    fit,
    make_augmentation,
    make_class_weights,
    mini_batches,
    passes_per_epoch,
    steps_of_fit,
    steps_per_pass,
    summed_loss,
)

BALANCED = TrainingConfig(class_weights="balanced")


def config_of(batch_size, **settings_):
    return TrainingConfig(**{"batch_size": batch_size, "min_steps": 0, **settings_})


@settings(max_examples=200, deadline=None)
@given(
    images=st.integers(1, 300),
    batch_size=st.integers(1, 80),
    workers=st.integers(1, 12),
    epochs=st.integers(1, 60),
    min_steps=st.integers(0, 1000),
)
def test_an_epoch_is_every_image_equally_often_in_the_same_steps_everywhere(
    images, batch_size, workers, epochs, min_steps
):
    workers = min(workers, images)  # as the trainer has it
    config = config_of(batch_size, epochs=epochs, min_steps=min_steps)
    passes = passes_per_epoch(images, config, workers)
    shares = [list(mini_batches(images, config, rank, workers)) for rank in range(workers)]
    seen = [
        rank + workers * row
        for rank, steps in enumerate(shares)
        for rows, _ in steps
        for row in rows.tolist()
    ]
    assert Counter(seen) == dict.fromkeys(range(images), passes)
    assert {len(steps) for steps in shares} == {passes * steps_per_pass(images, config, workers)}
    for step in zip(*shares, strict=True):
        together = sum(len(rows) for rows, _ in step)
        assert together > 0
        assert {images for _, images in step} == {together}
        assert max(len(rows) for rows, _ in step) <= math.ceil(batch_size / workers)


@settings(max_examples=200, deadline=None)
@given(
    images=st.integers(1, 10**6),
    batch_size=st.integers(1, 512),
    workers=st.integers(1, 12),
    epochs=st.integers(1, 200),
    min_steps=st.integers(0, 10_000),
)
def test_a_fit_makes_the_fewest_passes_that_reach_the_least_number_of_steps(
    images, batch_size, workers, epochs, min_steps
):
    config = config_of(batch_size, epochs=epochs, min_steps=min_steps)
    workers = min(workers, images)
    steps = steps_of_fit(images, config, workers)
    one_pass_each = steps_of_fit(images, config_of(batch_size, epochs=epochs), workers)
    assert one_pass_each == epochs * steps_per_pass(images, config, workers)
    assert steps >= min_steps
    assert steps == one_pass_each or steps - one_pass_each < min_steps


@pytest.mark.parametrize(
    ("labels", "steps"),
    [(20, 1000), (100, 1000), (500, 1200), (10_000, 157 * 50), (10**6, 15_625 * 50)],
)
def test_a_fit_with_default_settings_does_not_starve(labels, steps):
    assert steps_of_fit(labels, TrainingConfig()) == steps


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_more_workers_make_as_many_steps(workers):
    # 1000 images in mini-batches of 64 make 16 steps for any number of workers.
    assert len(list(mini_batches(1000, config_of(64), 0, workers))) == 16


def test_each_pass_and_epoch_has_its_own_order_and_a_seed_repeats_it():
    config = config_of(8, epochs=1, min_steps=26)

    def epoch(seed):
        torch.manual_seed(seed)
        order_N = torch.cat([rows for rows, _ in mini_batches(100, config, 0, 1)])
        return [one.tolist() for one in order_N.split(100)]

    first, second = epoch(0)
    assert first != second
    assert sorted(first) == sorted(second)
    assert epoch(0) == [first, second]
    assert epoch(1)[0] not in (first, second)


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
    epochs = [list(mini_batches(23, config_of(8), rank, workers)) for rank in range(workers)]
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


def test_balanced_weights_are_those_of_scikit_learn_with_a_mean_of_1():
    labels_N = torch.tensor([0] * 90 + [2] * 9 + [3])
    weights_C = make_class_weights(labels_N, BALANCED)
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels_N.numpy())
    assert weights_C[[0, 2, 3]].tolist() == pytest.approx(expected.tolist())
    assert weights_C[labels_N].mean().item() == pytest.approx(1)


def test_without_balance_each_image_counts_the_same():
    labels_N = torch.tensor([0] * 90 + [2])
    assert make_class_weights(labels_N, TrainingConfig()).tolist() == [1, 1, 1]


@pytest.mark.parametrize("output", ["logits", "log_probs"])
def test_the_loss_is_torchs_own_with_weights(output):
    torch.manual_seed(0)
    predictions_N_C, labels_N = torch.randn(9, 3).log_softmax(1), torch.randint(0, 3, (9,))
    weights_C = torch.tensor([1.0, 2.0, 0.5])
    expected = nn.functional.cross_entropy(predictions_N_C, labels_N, weights_C, reduction="sum")
    loss = summed_loss(predictions_N_C, labels_N, weights_C, output)
    assert torch.allclose(loss, expected)


class Brightness(nn.Module):
    """A logistic regression on the brightness of images of one pixel."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, images_N):
        return self.linear((images_N.float().mean(dim=(2, 3))[:, :1] - 135) / 20)


@pytest.mark.parametrize(
    ("class_weights", "recall"),
    [(None, 0.115), ("balanced", 0.773)],
)
def test_balanced_weights_find_a_rare_class(class_weights, recall):
    """Brightness is N(120, 20²) in 95 % of the images and N(150, 20²) in the others.

    The best threshold is 135 + 20² / 30 · ln(95 / 5) = 174 for accuracy, and 135 with balanced
    classes. Above it lie Φ((150 − 174.3) / 20) = 0.115 and Φ(15 / 20) = 0.773 of the rare class.
    """
    torch.manual_seed(0)
    quantiles = [torch.special.ndtri((torch.arange(n) + 0.5) / n) for n in (1900, 100)]
    brightness_N = torch.cat([120 + 20 * quantiles[0], 150 + 20 * quantiles[1]])
    labels_N = torch.tensor([0] * 1900 + [1] * 100)
    images_N = brightness_N.round().to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 1, 1)
    model = Brightness()
    settings_ = TrainingConfig(
        epochs=60,
        min_steps=0,
        batch_size=2000,
        learning_rate=0.5,
        weight_decay=0,
        class_weights=class_weights,
    )
    fit(model, images_N, labels_N, ModelConfig(), settings_)
    found_N = model(images_N[labels_N == 1]).argmax(dim=1).double()
    assert found_N.mean().item() == pytest.approx(recall, abs=0.02)
