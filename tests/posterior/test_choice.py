"""Tests of the choice between a traced model and the model itself, for any kind of posterior."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from baal_ray.posterior.choice import Choice
from baal_ray.posterior.dropout.masks import MaskCache
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.guards import check_posterior
from baal_ray.posterior.kinds.masked_model import MaskedModel
from baal_ray.posterior.mini_batch import MiniBatch
from baal_ray.posterior.outputs import Output
from baal_ray.posterior.preparations import Preparations
from scenarios import dropout_net, inputs

BATCH = MiniBatch(inputs(12))


@dataclass(frozen=True)
class Tempered(MaskedModel):
    """Samples that differ in their masks, and in a temperature 1 + k · `drawn`."""

    drawn: float = 1.0

    def run(self, k: int, batch: MiniBatch) -> Tensor:
        """Divide the log-probabilities by 1 + k."""
        return (super().run(k, batch) / (1 + k)).log_softmax(-1)

    def draw(self, trace: TrunkOnce, batch: MiniBatch, ks: Sequence[int]) -> Iterator[Tensor]:
        """Divide the log-probabilities by 1 + k · `drawn`."""
        for k in ks:
            (log_probs_K_N_C,) = super().draw(trace, batch, [k])
            yield (log_probs_K_N_C / (1 + k * self.drawn)).log_softmax(-1)


def tempered(drawn: float) -> Tempered:
    model = dropout_net().eval()
    sites = check_posterior(model, BATCH.images_N, Output())
    return Tempered(model, sites, 0, "shared", Output(), False, False, MaskCache(), drawn)


@pytest.fixture
def kept() -> Preparations:
    return Preparations(torch.nn.Identity())


@pytest.mark.filterwarnings("error")
def test_a_posterior_of_another_kind_is_traced_once_and_drawn_right(kept: Preparations) -> None:
    samples, choice = tempered(1.0), Choice()
    trace = choice.trace(samples, kept, BATCH, 5)
    assert trace is not None
    assert choice.trace(samples, kept, BATCH, 5) is trace
    expected = torch.stack([samples.run(k, BATCH) for k in range(5)])
    drawn = torch.cat(list(samples.draw(trace, BATCH, range(5))))
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)


def test_a_kind_that_draws_other_than_it_runs_is_run_whole(kept: Preparations) -> None:
    choice = Choice()
    with pytest.warns(RuntimeWarning, match="change by .* when traced"):
        assert choice.trace(tempered(1.1), kept, BATCH, 5) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert choice.trace(tempered(1.1), kept, BATCH, 4) is None
