"""Tests that posterior samples are nested, the same in any mini-batch, and as PyTorch's."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baal_ray import acquisition
from baal_ray.acquisition import bald
from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.model_changes import Watch
from baal_ray.score_names import SCORE_COLUMNS
from scenarios import dropout_net, inputs


class Branches(nn.Module):
    """A network with residuals, in-place activations, reuse and functions around its dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout2d(0.2)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.1, inplace=True))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images_N):
        x = self.drop(self.relu(self.norm(self.conv(images_N / 255))))
        x = self.relu(self.drop(x) + self.block(x))
        x = self.relu(self.drop(x) + self.block(x.clone()))
        x = F.dropout(x.mean(dim=(2, 3)), 0.5, self.training)
        return self.head(x) + F.alpha_dropout(x, 0.1, training=False)[:, :5]


def branches():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Branches()
        model(pictures(16))  # running averages worth keeping
    return model.train()


def pictures(images, size=8):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, generator=generator)


MODELS = {"dense": (dropout_net, lambda: inputs(20)), "branches": (branches, lambda: pictures(20))}
each_model = pytest.mark.parametrize(("build", "images"), MODELS.values(), ids=MODELS.keys())


@each_model
class TestConsistency:
    def test_log_probs_are_the_samples_stacked(self, build, images):
        posterior = MCDropout(build(), samples=5)
        log_probs_N_K_C = posterior.log_probs(images())
        assert log_probs_N_K_C.dtype == torch.float32
        assert not log_probs_N_K_C.requires_grad
        for k in range(5):
            sample_N_C = posterior.sample(k)(images()).detach()
            torch.testing.assert_close(log_probs_N_K_C[:, k], sample_N_C, rtol=0, atol=1e-5)
        torch.testing.assert_close(log_probs_N_K_C.exp().sum(dim=2), torch.ones(20, 5))

    def test_statistics_are_the_acquisition_functions(self, build, images):
        posterior = MCDropout(build(), samples=6)
        statistics = posterior.statistics(images())
        log_probs_N_K_C = posterior.log_probs(images())
        for name in SCORE_COLUMNS:
            function = getattr(acquisition, name)
            assert torch.equal(statistics[name], function(log_probs_N_K_C)), name
        assert torch.equal(statistics["predicted"], log_probs_N_K_C.exp().mean(1).argmax(1))

    def test_samples_are_nested(self, build, images):
        few = MCDropout(build(), samples=4).log_probs(images())
        many = MCDropout(build(), samples=20).log_probs(images())
        assert torch.equal(few, many[:, :4])

    def test_first_samples_are_not_drawn_again(self, build, images):
        posterior = MCDropout(build(), samples=7)
        expected = posterior.log_probs(images())
        drawn = posterior.log_probs(images(), first_N_K_C=expected[:, :4])
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-5)
        given = torch.full_like(expected[:, :4], -math.log(5))
        drawn = posterior.log_probs(images(), first_N_K_C=given)
        assert torch.equal(drawn[:, :4], given)
        together = posterior.predict(images(), first_N_K_C=given).columns()
        torch.testing.assert_close(together["bald"], bald(drawn), rtol=0, atol=1e-6)

    def test_samples_and_seeds_differ(self, build, images):
        one = MCDropout(build(), samples=4, seed=0).log_probs(images())
        other = MCDropout(build(), samples=4, seed=1).log_probs(images())
        assert (one != other).any(dim=2).all()
        assert (one[:, 0] != one[:, 1]).any(dim=1).all()

    @pytest.mark.parametrize("mini_batch", [1, 7, 256])
    @pytest.mark.parametrize("masks", ["shared", "per_item"])
    def test_scores_do_not_depend_on_company(self, build, images, masks, mini_batch):
        ids = [f"image-{i}" for i in range(20)]
        whole = MCDropout(build(), 5, masks=masks).statistics(images(), ids)
        order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
        posterior = MCDropout(build(), 5, masks=masks)
        parts = [
            posterior.statistics(images()[some], [ids[i] for i in some])
            for some in order.split(mini_batch)
        ]
        for name, score_N in whole.items():
            again_N = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(again_N, score_N[order], rtol=0, atol=1e-5)

    def test_a_nan_image_harms_no_other(self, build, images):
        broken = images().float()
        clean = MCDropout(build(), 3).statistics(broken)["bald"]
        broken[7] = torch.nan
        bald_N = MCDropout(build(), 3).statistics(broken)["bald"]
        assert bald_N[7].isnan()
        others = torch.arange(20) != 7
        torch.testing.assert_close(bald_N[others], clean[others], rtol=0, atol=1e-6)

    def test_the_model_is_left_as_it_was(self, build, images):
        model = build()
        next(iter(model.children())).eval()
        state = copy.deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        MCDropout(model, samples=3).statistics(images())
        assert [module.training for module in model.modules()] == modes
        assert any(modes)
        assert not all(modes)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_the_callers_context_does_not_matter(self, build, images):
        expected = MCDropout(build(), 3).log_probs(images())
        posterior = MCDropout(build(), 3)
        with torch.inference_mode():
            assert torch.equal(posterior.log_probs(images()), expected)
        posterior.model.eval()
        assert torch.equal(posterior.log_probs(images()), expected)

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_copies_draw_the_same(self, build, images, duplicate):
        posterior = MCDropout(build(), 3)
        expected = posterior.log_probs(images())
        assert torch.equal(duplicate(posterior).log_probs(images()), expected)
        sample = posterior.sample(2)
        assert torch.equal(duplicate(sample)(images()), sample(images()))


def test_per_item_masks_differ_between_images_and_not_between_equal_ids():
    images = inputs(1).expand(4, 8)
    posterior = MCDropout(dropout_net(), 10, masks="per_item")
    bald_N = posterior.statistics(images, ["a", "b", "a", "c"])["bald"]
    assert bald_N[0] == bald_N[2]
    assert len(bald_N.unique()) == 3
    shared_N = MCDropout(dropout_net(), 10).statistics(images)["bald"]
    assert len(shared_N.unique()) == 1
    as_numpy = np.array(["a", "b", "a", "c"])
    assert torch.equal(posterior.statistics(images, as_numpy)["bald"], bald_N)


@pytest.mark.parametrize("ids", [None, ["a"], ["a"] * 7])
def test_per_item_masks_need_an_id_for_each_image(ids):
    posterior = MCDropout(dropout_net(), masks="per_item")
    with pytest.raises(PosteriorError, match="needs an id for each of the 6 images"):
        posterior.log_probs(inputs(6), ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number, at least 1"),
        ({"masks": "both"}, "masks is 'both'; it must be shared or per_item"),
        ({"output": "probs"}, "output is 'probs'; it must be logits or log_probs"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(PosteriorError, match=message):
        MCDropout(dropout_net(), **arguments)


def test_the_model_is_left_as_it_was_when_it_fails():
    model = dropout_net().train()
    with pytest.raises(RuntimeError, match="shape"):
        MCDropout(model).log_probs(inputs(4, 9))
    assert all(module.training for module in model.modules())
    assert not model[0]._forward_hooks


class Merging(nn.Linear):
    """A linear layer that adds an update to its weights in evaluation mode, as LoRA does."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.merged, self.update = False, nn.Parameter(torch.randn_like(self.weight))

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += -self.update if mode else self.update
        self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) if self.merged else F.linear(x, self.weight + self.update)


def test_modes_are_put_back_by_the_models_own_means():
    model = nn.Sequential(Merging(8, 8), dropout_net()).train()
    MCDropout(model, samples=2).log_probs(inputs(4))
    assert not model[0].merged


@pytest.mark.parametrize("frozen", [False, True])
def test_what_was_traced_in_evaluation_mode_is_drawn_in_it(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(Merging(8, 8), dropout_net()).train()
    posterior = MCDropout(model, samples=3, frozen=frozen)
    for images_N in inputs(12).split(4):
        expected = torch.stack([posterior.sample(k)(images_N).detach() for k in range(3)], dim=1)
        drawn = posterior.log_probs(images_N)
        torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-4)
        assert not model[0].merged


def test_the_model_may_be_nothing_but_dropout():
    log_probs_N_K_C = MCDropout(nn.Dropout(0.5), samples=30).log_probs(torch.ones(2, 3))
    above_least = log_probs_N_K_C - log_probs_N_K_C.amin(dim=2, keepdim=True)
    assert above_least.round().unique().tolist() == [0, 2]


def test_draws_what_pytorch_draws():
    # The same network draws 1,500 times in training mode. Mean and spread agree to about four σ.
    model, images_N = dropout_net().train(), inputs(3)
    ours = MCDropout(model, samples=1500).log_probs(images_N).exp()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        theirs = torch.stack([model(images_N).softmax(1) for _ in range(1500)], dim=1)
    error = 4 * (theirs.std(dim=1).max().item() * 2 / 1500**0.5)
    torch.testing.assert_close(ours.mean(dim=1), theirs.mean(dim=1), rtol=0, atol=error)
    torch.testing.assert_close(ours.std(dim=1), theirs.std(dim=1), rtol=0, atol=error)


def test_a_sample_has_gradients_even_after_inference_mode():
    model = nn.Sequential(nn.Linear(8, 16), nn.SELU(), nn.AlphaDropout(0.5), nn.Linear(16, 3))
    posterior = MCDropout(model, samples=2)
    with torch.inference_mode():
        posterior.log_probs(inputs(4))
    posterior.sample(0)(inputs(4))[:, 0].sum().backward()
    assert (model[0].weight.grad != 0).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_have_the_same_masks(dtype):
    expected = MCDropout(dropout_net(), 10).log_probs(inputs(20))
    log_probs_N_K_C = MCDropout(dropout_net().to(dtype), 10).log_probs(inputs(20).to(dtype))
    assert log_probs_N_K_C.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(log_probs_N_K_C.float(), expected, rtol=0, atol=3e-2)


def test_autocast():
    expected = MCDropout(dropout_net(), 10).log_probs(inputs(20))
    with torch.autocast("cpu", torch.bfloat16):
        log_probs_N_K_C = MCDropout(dropout_net(), 10).log_probs(inputs(20))
    torch.testing.assert_close(log_probs_N_K_C, expected, rtol=0, atol=3e-2)


def test_a_traced_graph_of_modules():
    expected = MCDropout(dropout_net(), 4).log_probs(inputs(4))
    traced = torch.fx.symbolic_trace(dropout_net())
    assert torch.equal(MCDropout(traced, 4).log_probs(inputs(4)), expected)


def test_a_compiled_model_is_not_frozen_to_its_first_masks():
    expected = MCDropout(dropout_net(), 4).log_probs(inputs(4))
    compiled = torch.compile(dropout_net(), backend="eager")
    assert torch.equal(MCDropout(compiled, 4).log_probs(inputs(4)), expected)


def test_a_frozen_model_is_left_alone_once_it_is_prepared(monkeypatch):
    images_N, model = inputs(4), dropout_net()
    posterior = MCDropout(model, samples=4, frozen=True)
    expected = posterior.log_probs(images_N)
    posterior.log_probs(images_N)  # of the second mini-batch, a few images run through the model

    def fail(*_):
        raise AssertionError("the model's mode is set")

    monkeypatch.setattr(model, "train", fail)
    assert torch.equal(posterior.log_probs(images_N), expected)
    with pytest.raises(AssertionError, match="mode is set"):
        posterior.log_probs(inputs(5))


def test_only_a_frozen_model_is_not_looked_at_again(monkeypatch):
    images_N = inputs(4)
    usual, frozen = (MCDropout(dropout_net(), 4, frozen=is_frozen) for is_frozen in (False, True))
    expected = usual.log_probs(images_N)
    assert torch.equal(frozen.log_probs(images_N), expected)

    def looked_at(watch):
        raise RuntimeError("looked at")

    monkeypatch.setattr(Watch, "changed", looked_at)
    assert torch.equal(frozen.log_probs(images_N), expected)
    with pytest.raises(RuntimeError, match="looked at"):
        usual.log_probs(images_N)
