"""Tests of how the prediction is found in what a model returns."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.head_inputs import features
from baal_ray.posterior.outputs import prediction_of

LOGITS_N_C = torch.tensor([[0.0, 1.0]])


@dataclass
class Plain:
    """A dataclass of two tensors."""

    logits: Tensor
    hidden: Tensor


class ModelOutput(OrderedDict[str, Tensor]):
    """A dictionary in the form of transformers' `ModelOutput`."""


Named = namedtuple("Named", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS_N_C,
        {"hidden": LOGITS_N_C + 1, "logits": LOGITS_N_C},
        ModelOutput(loss=LOGITS_N_C + 1, logits=LOGITS_N_C),
        Plain(LOGITS_N_C, LOGITS_N_C + 1),
        Named(LOGITS_N_C, LOGITS_N_C + 1),
    ],
    ids=lambda returned: type(returned).__name__,
)
def test_a_prediction_is_a_tensor_or_in_a_field(returned: object) -> None:
    assert prediction_of(returned, "logits") is LOGITS_N_C


def test_a_field_of_a_tuple_is_its_place() -> None:
    assert prediction_of((LOGITS_N_C + 1, LOGITS_N_C), 1) is LOGITS_N_C
    assert prediction_of([LOGITS_N_C], 0) is LOGITS_N_C


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (
            {"out": LOGITS_N_C, "extra": None},
            r"dict .* 'out' \(shape \[1, 2\]\), 'extra' \(None",
        ),
        ((LOGITS_N_C, [1]), r"tuple whose fields are 0 \(shape \[1, 2\]\), 1 \(list\); it must"),
        (None, "NoneType whose fields are none"),
        ({"logits": LOGITS_N_C.tolist()}, r"'logits' \(list\).* the field 'logits'"),
    ],
)
def test_anything_else_is_refused_with_the_fields_found(returned: object, found: str) -> None:
    with pytest.raises(PosteriorError, match=found):
        prediction_of(returned, "logits")


class Classifier(nn.Module):
    """A network in the form of a classifier of transformers."""

    def __init__(self, wrapped: Callable[..., object] | None) -> None:
        super().__init__()
        self.drop, self.classifier = nn.Dropout(0.5), nn.Linear(8, 3)
        self.wrapped = wrapped

    def forward(self, pixel_values: Tensor) -> object:
        """Predict, and return the hidden states too."""
        hidden = self.drop(pixel_values)
        logits = self.classifier(hidden)
        return self.wrapped(logits=logits, hidden=hidden) if self.wrapped else logits


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrapped", [ModelOutput, Plain])
def test_a_posterior_draws_from_a_model_that_returns_an_object_as_from_its_logits(
    wrapped: type,
) -> None:
    with_object, plain = Classifier(wrapped).eval(), Classifier(None).eval()
    plain.load_state_dict(with_object.state_dict())
    images_N = torch.randn(5, 8)
    drawn, expected = (MCDropout(model, samples=4) for model in (with_object, plain))
    assert torch.equal(drawn.log_probs(images_N), expected.log_probs(images_N))
    assert torch.equal(drawn.sample(2)(images_N), expected.sample(2)(images_N))
    assert torch.equal(
        features(with_object, images_N, "logits"), features(plain, images_N, "logits")
    )


class Tuple(Classifier):
    """A network that returns a tuple, with its prediction in the second place."""

    def forward(self, pixel_values: Tensor) -> object:
        """Predict, after a loss that is not one."""
        return pixel_values.sum(), super().forward(pixel_values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("model", "field"),
    [
        (Tuple(None), 1),
        (Classifier(lambda logits, hidden: {"scores": logits, "logits": hidden}), "scores"),
    ],
)
def test_every_way_to_read_a_prediction_takes_the_declared_field(
    model: Classifier, field: str | int
) -> None:
    plain, images_N = Classifier(None).eval(), torch.randn(5, 8)
    plain.load_state_dict(model.state_dict())
    drawn, expected = MCDropout(model, 3, output_field=field), MCDropout(plain, 3)
    assert torch.equal(drawn.log_probs(images_N), expected.log_probs(images_N))
    assert torch.equal(drawn.sample(1)(images_N), expected.sample(1)(images_N))
    model.classifier, plain.classifier = nn.Identity(), nn.Identity()  # no linear layer is left
    assert torch.equal(
        features(model, images_N, "logits", field), features(plain, images_N, "logits")
    )


@pytest.mark.parametrize("field", [True, 1.0, ["logits"]])
def test_a_field_is_a_name_or_a_place(field: object) -> None:
    with pytest.raises(PosteriorError, match=r"output_field is .*; it must be the name of a"):
        MCDropout(Classifier(None), output_field=field)  # type: ignore[arg-type]
