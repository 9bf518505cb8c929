"""Tests that near-duplicates among the best are passed over."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baal_ray.selection.near_duplicates import spread_out


def at(*degrees):
    """Return features on a circle, given their angles."""
    angles = torch.tensor([math.radians(each) for each in degrees])
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_an_image_too_like_an_earlier_pick_is_passed_over():
    most_alike = math.cos(math.radians(10))
    assert spread_out(at(0, 5, 90, 8, 85, 40), 3, most_alike).tolist() == [0, 2, 5]


def test_length_does_not_count():
    assert spread_out(at(0, 1, 90) * torch.tensor([[1.0], [9.0], [2.0]]), 2, 0.99).tolist() == [
        0,
        2,
    ]


def test_only_picks_count_not_what_was_passed_over():
    # 20° is too similar to 10°, but 10° was passed over because of 0°.
    assert spread_out(at(0, 10, 20), 2, math.cos(math.radians(15))).tolist() == [0, 2]


def test_where_too_few_are_unlike_the_best_of_the_others_fill_up():
    assert spread_out(at(0, 0, 0, 90, 0), 4, 0.9).tolist() == [0, 3, 1, 2]


def test_fewer_images_than_picks():
    assert spread_out(at(0, 90), 5, 0.9).tolist() == [0, 1]
    assert spread_out(torch.empty(0, 2), 5, 0.9).tolist() == []


@settings(deadline=None)
@given(
    degrees=st.lists(st.integers(0, 359), min_size=1, max_size=30),
    k=st.integers(1, 30),
    within=st.integers(1, 90),
)
def test_by_brute_force(degrees, k, within):
    # Angles are whole numbers, and the limit lies between two of them.
    unlike, alike = [], []
    for row, angle in enumerate(degrees):
        apart = [min((angle - degrees[n]) % 360, (degrees[n] - angle) % 360) for n in unlike]
        (unlike if all(each >= within for each in apart) else alike).append(row)
    expected = (unlike[:k] + [n for n in alike if len(unlike) < k])[:k]
    limit = math.cos(math.radians(within - 0.5))
    assert spread_out(at(*degrees), k, limit).tolist() == expected
