"""Tests that changes of a model between calls are noticed, and that runs change nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from baal_ray.posterior import MCDropout
from baal_ray.posterior.model_changes import Watch
from scenarios import inputs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Net(nn.Module):
    """A model with batch norms to fold, layers to thin and settings of all sorts."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)
        self.register_buffer("temperature", torch.ones(()))
        self.function, self.order, self.scale = torch.relu, [1.0, 2.0], torch.ones(())
        self.long = [1.0] * 1000
        self.hidden_away = [nn.Linear(8, 8)]  # its weights are no parameters of the model
        self.mean = np.zeros((3, 1, 1), np.float32)

    def forward(self, images_N):
        images_N = images_N - torch.from_numpy(self.mean)
        x = self.norm(self.conv(images_N)).relu().mean(dim=(2, 3))
        x = x + self.hidden_away[0](x) * self.long[700]
        x = self.drop(self.function(self.hidden(self.drop(x))))
        return self.head(x * self.order[0] * self.scale) / self.temperature.item()


def images():
    return inputs(4, 3, 6, 6)


def step(model, optimizer, **how):
    optimizer(model.parameters(), lr=0.1, **how).zero_grad()
    F.cross_entropy(model(images()), torch.arange(4)).backward()
    optimizer(model.parameters(), lr=0.1, **how).step()


def load(model, **how):
    torch.manual_seed(7)
    model.load_state_dict(Net().state_dict(), **how)


CHANGES = {
    "fused Adam": lambda m: step(m, torch.optim.Adam, fused=True),
    "SGD": lambda m: step(m, torch.optim.SGD),
    ".data.mul_": lambda m: m.head.weight.data.mul_(2),
    "one of many biases by .data": lambda m: m.head.bias.data[3].add_(1),
    "two rows exchanged by .data": lambda m: m.head.weight.data.copy_(m.head.weight.data.flip(0)),
    "a NumPy attribute": lambda m: m.mean.__iadd__(1),
    "a weight that is no parameter": lambda m: m.hidden_away[0].weight.data.mul_(3),
    "a long list": lambda m: m.long.__setitem__(700, 2.0),
    ".data =": lambda m: setattr(m.conv.weight, "data", torch.randn(8, 3, 3, 3)),
    "numpy": lambda m: m.hidden.weight.detach().numpy().__imul__(1.5),
    "running mean": lambda m: m.norm.running_mean.data.add_(0.5),
    "a value read in Python": lambda m: m.temperature.fill_(3.0),
    "state": load,
    "state assigned": lambda m: load(m, assign=True),
    "another module": lambda m: setattr(m, "head", nn.Linear(16, 4)),
    "p": lambda m: setattr(m.drop, "p", 0.2),
    "eps": lambda m: setattr(m.norm, "eps", 1.0),
    "a function": lambda m: setattr(m, "function", torch.tanh),
    "a list": lambda m: m.order.reverse(),
    "a plain tensor": lambda m: setattr(m, "scale", torch.full((), 3.0)),
    "a hook": lambda m: m.head.register_forward_hook(lambda *x: x[2] * 2),
    "parametrization": lambda m: parametrizations.weight_norm(m.head).bias.data.add_(1),
    "precision": lambda m: m.double().float().head.bias.data.add_(1),
}


@pytest.mark.filterwarnings("ignore:the model cannot be traced")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_between_calls(change):
    model = Net().eval()
    posterior = MCDropout(model, 3)
    before = posterior.log_probs(images())
    change(model)
    after = posterior.log_probs(images())
    assert not torch.equal(before, after)
    again = torch.stack([posterior.sample(k)(images()).detach() for k in range(3)], dim=1)
    torch.testing.assert_close(after, again, rtol=0, atol=1e-5)
    torch.testing.assert_close(after, MCDropout(model, 3).log_probs(images()), rtol=0, atol=1e-5)


class Temperature:
    value = 1.0


@pytest.mark.parametrize("frozen", [False, True])
def test_after_a_refresh_any_change_counts(frozen):
    class Tempered(Net):
        temperature_object = Temperature()

        def forward(self, images_N):
            return super().forward(images_N) / self.temperature_object.value

    model = Tempered().eval()
    posterior = MCDropout(model, 3, frozen=frozen)
    posterior.log_probs(images())
    model.temperature_object.value = 4.0
    model.head.bias.data.add_(torch.arange(4.0))
    posterior.refresh()
    torch.testing.assert_close(
        posterior.log_probs(images()), MCDropout(model, 3).log_probs(images()), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("setting", [("seed", 7), ("masks", "per_item"), ("samples", 5)])
def test_settings_may_change_between_calls(setting):
    posterior = MCDropout(Net(), 3)
    posterior.log_probs(images())
    setattr(posterior, *setting)
    ids = list("abcd")
    now = posterior.log_probs(images(), ids)
    again = [posterior.sample(k)(images(), ids).detach() for k in range(posterior.samples)]
    torch.testing.assert_close(now, torch.stack(again, dim=1), rtol=0, atol=1e-5)


def test_a_head_that_was_zero_when_the_model_was_checked():
    # Nothing shows in the predictions of such a head, so the fault must be found later.
    class Leaking(Net):
        def forward(self, images_N):
            x = self.hidden(images_N.mean(dim=(2, 3)) @ torch.ones(3, 8))
            return self.head(self.drop(x - x.mean(dim=0)))

    model = Leaking()
    nn.init.zeros_(model.head.weight)
    posterior = MCDropout(model, 3)
    posterior.log_probs(images())
    nn.init.normal_(model.head.weight)
    with pytest.raises(Exception, match="depends on the others"):
        posterior.log_probs(images())


def test_merging_weights_as_lora_does():
    class Merging(nn.Linear):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.extra, self.merged = nn.Parameter(torch.zeros_like(self.weight)), False

        def train(self, mode=True):
            super().train(mode)
            if mode == self.merged:
                self.weight.data += -self.extra if mode else self.extra
                self.merged = not mode
            return self

        def forward(self, x):
            return F.linear(x, self.weight + (0 if self.merged else self.extra), self.bias)

    model = nn.Sequential(Merging(8, 16), nn.ReLU(), nn.Dropout(0.5), Merging(16, 4)).train()
    posterior = MCDropout(model, 3)
    for _ in range(2):
        again = torch.stack([posterior.sample(k)(inputs(4)).detach() for k in range(3)], dim=1)
        torch.testing.assert_close(posterior.log_probs(inputs(4)), again, rtol=0, atol=1e-5)
        model[0].extra.data.add_(0.3)


class Keeping(nn.Module):
    """A model that sets attributes as it runs, draws random numbers and changes its input."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.calls, self.kept, self.all, self.last = 0, None, [], {}
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += 1
        if self.kept is None or len(self.kept) != len(x):
            self.kept = torch.ones(len(x), 8)
        torch.rand(1)
        self.all.append(x)
        self.last["x"] = x
        return self.net(x.clamp_(-1, 1) * self.kept)


@pytest.mark.filterwarnings("ignore:the model cannot be traced")
def test_our_own_runs_change_nothing():
    model, images_N = Keeping(), inputs(4)
    given, state = images_N.clone(), torch.random.get_rng_state()
    posterior = MCDropout(model, 3)
    fast = posterior.log_probs(images_N)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(images_N, given)
    assert (model.calls, model.kept, model.seen.item()) == (0, None, 0)
    assert (model.all, model.last) == ([], {})
    assert not any(module._forward_hooks for module in model.modules())
    plain = torch.stack([posterior.sample(k)(given.clone()).detach() for k in range(3)], dim=1)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)
    assert type(model.kept) is torch.Tensor


def test_a_watch_sees_nan_and_empty_and_strided_tensors():
    tensors = [torch.full((3,), torch.nan), torch.empty(0), torch.ones(4, 4).t()[1:, ::2]]
    watch = Watch(tensors)
    assert not watch.changed()
    tensors[2].data.mul_(2)
    assert watch.changed()
    watch.update()
    assert not watch.changed()
