"""Tests of the candidates of joint rules."""

import numpy as np
import pyarrow as pa
import pytest

from baal_ray.ids import IdSet
from baal_ray.selection.joint_rules import candidates_for
from baal_ray.selection.ranking import Ranking

IMAGES, SIZE = 1000, 100
SCORES = pa.table(
    {
        "id": [f"{number:04}" for number in range(IMAGES)],
        "source": [""] * IMAGES,
        "bald": np.linspace(1, 0, IMAGES, dtype=np.float32),
    }
)


def numbers(rule, seed=0, leave_out=None, size=SIZE):
    ranking = Ranking("bald", seed, leave_out)
    found = candidates_for(rule, ranking, size, lambda by, n: by.best_of([SCORES], n))
    return list(map(int, found["id"].to_pylist()))


def test_those_of_batch_bald_are_the_best():
    assert numbers("batch_bald") == list(range(SIZE))


def test_half_of_those_of_epig_are_any_others():
    others = [number for seed in range(20) for number in numbers("epig", seed)[SIZE // 2 :]]
    assert min(others) >= SIZE // 2
    # Uniform on 50 to 999: the mean of 1,000 draws lies within 4 standard errors of 524.5.
    assert np.mean(others) == pytest.approx(524.5, abs=4 * 274 / np.sqrt(1000))


@pytest.mark.parametrize("size", [1, 2, 3, IMAGES, IMAGES + 1])
def test_there_are_as_many_as_asked_for_and_none_twice(size):
    left_out = IdSet.of(["0000", "0500"])
    found = numbers("epig", leave_out=left_out, size=size)
    assert len(found) == len(set(found)) == min(size, IMAGES - 2)
    assert not {0, 500} & set(found)
