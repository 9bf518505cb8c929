"""Tests of later mini-batches that are held against the model itself."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import peeking
from baal_ray.errors import TraceError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.trace_checks import is_due, spread


def dark(images: int = 16) -> Tensor:
    return torch.rand(images, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def with_a_bright_one() -> Tensor:
    images_N = dark()
    images_N[-1] = 1.0
    return images_N


def test_the_second_and_every_thousandth_mini_batch_are_due() -> None:
    assert [number for number in range(1, 3001) if is_due(number)] == [2, 1000, 2000, 3000]


@pytest.mark.parametrize(("images", "places"), [(2, [0, 1]), (8, range(8)), (22, range(0, 22, 3))])
def test_few_images_are_spread_evenly(images: int, places: Sequence[int]) -> None:
    assert spread(images) == list(places)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("masks", ["shared", "per_item"])
def test_a_forward_that_depends_on_values_is_found_at_the_second_mini_batch(
    frozen: bool, masks: str
) -> None:
    model = peeking.Peeking().eval()
    ids = [f"photo {number}" for number in range(16)]
    posterior = MCDropout(model, samples=4, masks=masks, frozen=frozen)
    posterior.log_probs(dark(), ids)
    with pytest.raises(TraceError, match=r"image 'photo (0|15)' when traced"):
        posterior.log_probs(with_a_bright_one(), ids)
    plain = MCDropout(model, samples=4, masks=masks, traced=False)
    torch.testing.assert_close(
        posterior.log_probs(with_a_bright_one(), ids), plain.log_probs(with_a_bright_one(), ids)
    )


def test_an_image_without_an_id_is_named_by_its_place() -> None:
    posterior = MCDropout(peeking.Peeking().eval(), samples=4, frozen=True)
    posterior.log_probs(dark())
    with pytest.raises(TraceError, match="image 0 of a mini-batch"):
        posterior.statistics(with_a_bright_one())


def test_the_samples_after_given_ones_are_compared_too() -> None:
    posterior = MCDropout(peeking.Peeking().eval(), samples=4, frozen=True)
    first_N_K_C = posterior.log_probs(dark())[:, :2]
    posterior.log_probs(dark(), first_N_K_C=first_N_K_C)
    with pytest.raises(TraceError, match="image 0"):
        posterior.log_probs(with_a_bright_one(), first_N_K_C=first_N_K_C)


def test_a_right_model_agrees_at_each_mini_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baal_ray.posterior.traces.is_due", lambda _: True)
    posterior = MCDropout(peeking.Peeking().eval(), samples=4, frozen=True)
    plain = MCDropout(peeking.Peeking().eval(), samples=4, traced=False)
    for seed in range(5):
        torch.manual_seed(seed)
        images_N = torch.rand(16, 3, 4, 4)
        torch.testing.assert_close(posterior.log_probs(images_N), plain.log_probs(images_N))
