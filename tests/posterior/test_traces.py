"""Tests of how often a model is traced."""

import pytest
import torch
from torch import nn

from baal_ray.posterior import MCDropout
from baal_ray.posterior.engine.trunk_once import TrunkOnce
from scenarios import inputs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Storing(nn.Sequential):
    """A model that counts its calls and stores features, in an attribute and by a hook."""

    def __init__(self):
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.calls, self.features, self.by_hook, self.order = 0, None, {}, [1.0, 2.0]
        self[1].register_forward_hook(lambda _, __, x: self.by_hook.update(hidden=x))

    def forward(self, x):
        self.calls += 1
        self.features = x + 1
        return super().forward(x) * self.order[0]


def old_weight_norm():
    model = Storing()
    torch.nn.utils.weight_norm(model[0])
    return model


@pytest.fixture
def traces(monkeypatch):
    found = []
    prepare = TrunkOnce.__init__

    def count(self, model, images_N, *more, **how):
        found.append(len(images_N))
        prepare(self, model, images_N, *more, **how)

    monkeypatch.setattr(TrunkOnce, "__init__", count)
    return found


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("make", [Storing, old_weight_norm])
def test_what_a_model_changes_by_itself_does_not_count(make, traces):
    model = make().eval()
    posterior = MCDropout(model, 3)
    first = posterior.log_probs(inputs(4))
    for _ in range(3):
        model(inputs(4))
        assert torch.equal(posterior.log_probs(inputs(4)), first)
    assert traces == [4]
    model[3].bias.data[1].add_(1)
    model.order.reverse()
    again = torch.stack([posterior.sample(k)(inputs(4)).detach() for k in range(3)], dim=1)
    torch.testing.assert_close(posterior.log_probs(inputs(4)), again, rtol=0, atol=1e-5)


def test_the_third_trace_of_the_same_mini_batches_is_told(traces, recwarn):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    posterior = MCDropout(model, 3)
    for _ in range(4):
        for images_N in range(2, 11):
            posterior.log_probs(inputs(images_N))
    assert len(traces) == 4 * 9
    told = [str(each.message) for each in recwarn if "was traced 3 times" in str(each.message)]
    assert len(told) == 9
    assert "of shape [2, 8]" in told[0]
