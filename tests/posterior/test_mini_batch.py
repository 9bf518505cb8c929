"""Tests of mini-batches: images that travel with their ids."""

import pytest
import torch

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.mini_batch import MiniBatch
from scenarios import dropout_net, inputs

IMAGES_N = torch.arange(4.0)[:, None]


def test_images_and_ids_stay_together() -> None:
    batch = MiniBatch(IMAGES_N, ["a", "b", "c", "d"])
    some, twice = batch.at([3, 1]), batch.twice()
    assert some.images_N.flatten().tolist() == [3, 1]
    assert some.ids == ["d", "b"]
    assert twice.images_N.flatten().tolist() == [0, 1, 2, 3] * 2
    assert twice.ids == ["a", "b", "c", "d"] * 2
    assert batch.name(2) == "image 'c'"


def test_ids_may_be_missing() -> None:
    batch = MiniBatch(IMAGES_N)
    assert batch.at([1]).ids is None
    assert batch.twice().ids is None
    assert batch.name(2) == "image 2 of a mini-batch"


@pytest.mark.parametrize("ids", [[], ["a"], ["a"] * 5])
def test_more_or_fewer_ids_than_images_are_refused(ids: list[str]) -> None:
    told = f"an id for each of the 4 images, or none at all; ids given: {len(ids)}"
    with pytest.raises(PosteriorError, match=told):
        MCDropout(dropout_net(), samples=2).log_probs(inputs(4), ids)
