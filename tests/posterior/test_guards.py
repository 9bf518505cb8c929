"""Tests that models are refused which would otherwise give wrong scores without an error."""

import pytest
import torch
from torch import nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from scenarios import Model, dropout_net, inputs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def sequence(x_N_D):
    """Reshape [N, 8] to [N, 4, 2]."""
    return x_N_D.view(-1, 4, 2)


def refused(model, match, output="logits", images=6):
    with pytest.raises(PosteriorError, match=match):
        MCDropout(model, samples=2, output=output).log_probs(inputs(images))


@pytest.mark.parametrize("p", [None, 0.0])
def test_no_dropout(p):
    model = nn.Linear(8, 3) if p is None else dropout_net(p)
    refused(model, "no dropout with p > 0")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dropout_between_recurrent_layers(kind):
    model = Model(
        lambda self, x: self.net(self.recurrent(sequence(x))[0].flatten(1)),
        recurrent=kind(2, 2, num_layers=2, dropout=0.2, batch_first=True),
        net=dropout_net(),
    )
    refused(model, f"recurrent is a {kind.__name__} with dropout=0.2")


def encoder():
    layer = nn.TransformerEncoderLayer(2, 1, 4, dropout=0.2, batch_first=True)
    return Model(
        lambda self, x: self.head(self.encoder(sequence(x)).flatten(1)),
        encoder=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False),
        head=nn.Linear(8, 3),
    )


def test_a_transformer_encoder_does_not_take_its_fused_path():
    # PyTorch would run the layer in evaluation mode as one kernel, without its four dropouts.
    posterior = MCDropout(encoder(), samples=8)
    assert (posterior.log_probs(inputs(6)).std(dim=1) > 0).all()
    assert len(posterior.sites(inputs(6))) == 4


def test_a_dropout_that_forward_goes_around():
    model = Model(
        lambda self, x: self.net(x if not self.training else self.drop(x)),
        drop=nn.Dropout(0.5),
        net=dropout_net(),
    )
    refused(model, r"drop \(Dropout\) applies dropout only in training")


@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dropout_between_the_layers_of_a_single_one_is_no_concern(kind):
    model = Model(
        lambda self, x: self.head(self.drop(self.recurrent(x[:, None])[0][:, 0])),
        recurrent=kind(8, 16, batch_first=True, dropout=0.2),
        drop=nn.Dropout(0.5),
        head=nn.Linear(16, 3),
    )
    posterior = MCDropout(model.train(), samples=2)
    expected = torch.stack([posterior.sample(k)(inputs(6)).detach() for k in range(2)], dim=1)
    torch.testing.assert_close(posterior.log_probs(inputs(6)), expected, rtol=0, atol=1e-5)


def test_an_auxiliary_head_that_does_not_run_is_no_concern():
    model = Model(
        lambda self, x: (self.net(x), self.aux(x)) if self.training else self.net(x),
        net=dropout_net(),
        aux=dropout_net(),
    )
    assert MCDropout(model.train(), samples=2).log_probs(inputs(6)).shape == (6, 2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda m: torch.jit.trace(m, inputs(2))])
@pytest.mark.parametrize("part", [False, True])
def test_scripted_dropout(compiled, part):
    scripted = compiled(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).eval())
    refused(nn.Sequential(scripted, dropout_net()) if part else scripted, "ScriptMod|TopLevel")


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_scripted_part_without_dropout_is_no_concern():
    model = nn.Sequential(torch.jit.script(nn.Linear(8, 8)), dropout_net())
    assert MCDropout(model, samples=2).log_probs(inputs(6)).shape == (6, 2, 3)


@pytest.mark.parametrize("classes", [3, 1000])
@pytest.mark.parametrize("images", [1, 6])
def test_an_image_that_sees_its_neighbours(classes, images):
    # Each of 1,000 classes has a probability near 1e-3, so a leak does not show in the
    # probabilities.
    model = Model(
        lambda self, x: self.head(self.drop(x - 0.5 * x.mean(dim=0))),
        drop=nn.Dropout(0.5),
        head=nn.Linear(8, classes),
    )
    refused(model, "depends on the others", images=images)


def test_an_image_that_depends_on_those_before_it_alone():
    # A recurrent network takes the mini-batch for a sequence. Most of it is dropped.
    model = Model(
        lambda self, x: self.head(self.drop(self.recurrent(x)[0])),
        recurrent=nn.LSTM(8, 16),
        drop=nn.Dropout(0.8),
        head=nn.Linear(16, 3),
    )
    refused(model, "depends on the others")


def test_stochastic_depth_that_the_model_does_not_have():
    with pytest.raises(PosteriorError, match="has no module that skips a block for random images"):
        MCDropout(dropout_net(), stochastic_depth=True).log_probs(inputs(6))


def test_batch_norm_that_stays_in_training_mode():
    class Stubborn(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(True)

    refused(nn.Sequential(Stubborn(8), dropout_net()), "depends on the others")


def test_batch_norm_without_running_averages():
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    refused(nn.Sequential(norm, dropout_net()), "BatchNorm without running averages")


def test_a_model_that_is_random_by_itself():
    refused(
        Model(lambda self, x: self.net(x + torch.rand_like(x)), net=dropout_net()),
        "different results for",
    )


def test_masks_of_ones_own_are_random_too():
    def forward(self, x):
        return self.net(x * torch.bernoulli(torch.full_like(x, 0.5)))

    refused(Model(forward, net=dropout_net()), "different results for the same images and masks")


def test_images_mixed_up_along_an_axis():
    # None of six rows for four images belongs to a single image. The same holds for N·N pairs.
    def first_and_last(self, x):
        self.drop(torch.cat([x, x[:2]]))
        return self.net(x)

    def pairs(self, x):
        self.drop((x[:, None] - x[None]).flatten(0, 1))
        return self.net(x)

    for forward in (first_and_last, pairs):
        refused(Model(forward, drop=nn.Dropout(0.5), net=dropout_net()), "must grow with the mini")

    def shuffled(self, x):
        self.drop(torch.cat([x, x])[torch.randperm(2 * len(x))])
        return self.net(x)

    refused(Model(shuffled, drop=nn.Dropout(0.5), net=dropout_net()), "mixes up images")


def test_dropouts_that_come_and_go():
    def forward(self, x):
        return self.net(x if len(x) % 2 else self.drop(x))

    refused(
        Model(forward, drop=nn.Dropout(0.5), net=dropout_net()),
        "3 times for 4 images and 2 times for 5",
    )


def test_a_channel_dropout_that_takes_the_mini_batch_for_channels():
    refused(nn.Sequential(nn.Dropout1d(0.5), nn.Linear(8, 3)), "mini-batch axis; give it")


@pytest.mark.parametrize(
    ("forward", "match"),
    [
        (lambda self, x: (self.net(x), x), r"returns a tuple whose fields are 0 \(shape \[4, 3\]"),
        (
            lambda self, x: {"out": self.net(x)},
            r"a dict whose fields are 'out' \(shape \[4",
        ),
        (lambda self, x: {"logits": [self.net(x)]}, r"'logits' \(list\).*Set output_field"),
        (lambda self, x: self.net(x).unsqueeze(1), r"shape \[4, 1, 3\] for 4 images"),
        (lambda self, x: self.net(x).mean(dim=0), r"shape \[3\] for 4 images"),
        (lambda self, x: self.net(x)[:, :1], "give a binary classifier two outputs"),
        (lambda self, x: self.net(x).softmax(1), "they are probabilities.*Remove its softmax"),
        (lambda self, x: self.net(x).bfloat16().softmax(1), "they are probabilities"),
    ],
)
def test_outputs_that_are_not_logits(forward, match):
    refused(Model(forward, net=dropout_net()), match)


@pytest.mark.parametrize("shift", [0, 1000])
def test_logits_declared_as_log_probs(shift):
    # Exponentials of large logits are infinite, so their sum is not 1 either.
    model = Model(lambda self, x: self.net(x) + shift, net=dropout_net())
    refused(model, "declared to return log_probs", output="log_probs")


def test_log_probs_declared_as_log_probs():
    model = nn.Sequential(dropout_net(), nn.LogSoftmax(dim=1))
    declared = MCDropout(model, samples=2, output="log_probs").log_probs(inputs(6))
    torch.testing.assert_close(declared, MCDropout(dropout_net(), samples=2).log_probs(inputs(6)))


def test_no_images():
    refused(dropout_net(), r"shape \[0, .*; it must be \[N", images=0)


def test_a_model_whose_head_is_still_zero_is_not_refused():
    # torchvision's ViT has such a head at first, and a configuration is checked before the fit.
    model = dropout_net()
    nn.init.zeros_(model[-1].weight)
    assert (MCDropout(model, samples=3).statistics(inputs(6))["bald"] == 0).all()


def test_a_diverged_model_is_not_mistaken_for_another_fault():
    model = dropout_net()
    nn.init.constant_(model[0].bias, torch.nan)
    assert MCDropout(model, samples=2).statistics(inputs(6))["bald"].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_in_sixteen_bits_is_not_mistaken_for_a_neighbour(dtype, seed):
    model = dropout_net(0.1, seed=seed).to(dtype)
    MCDropout(model, samples=2).check(10 * inputs(6, seed=seed).to(dtype))


def test_saturated_predictions_are_not_mistaken_for_noise():
    # Logits in the hundreds give probabilities of 1 and 0, which hide any dropout.
    model = Model(lambda self, x: 3000 * self.net(x), net=dropout_net())
    MCDropout(model, samples=2).check(inputs(6))
