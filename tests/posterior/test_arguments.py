"""Tests of what a posterior refuses before it begins."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baal_ray.errors import PosteriorError
from baal_ray.posterior import MCDropout
from baal_ray.posterior.arguments import whole_number

IMAGES_N = torch.randn(4, 12)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.Dropout(0.5), nn.Linear(8, 3))


def on_meta() -> nn.Module:
    return network().to("meta")


def sparse(convert: Callable[[Tensor], Tensor]) -> nn.Module:
    model = network()
    model[0].weight = nn.Parameter(convert(model[0].weight.detach()))
    return model


def exported() -> Any:
    return torch.export.export(network().eval(), (IMAGES_N,))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lazy, "tensor 0.weight of the model is lazy; it must have a shape. Run the model once"),
        (on_meta, "tensor 0.weight of the model is on the meta device; it must hold values"),
        (
            lambda: sparse(Tensor.to_sparse),
            r"0.weight .* is sparse \(torch.sparse_coo\).*to_dense",
        ),
        (lambda: sparse(Tensor.to_sparse_csr), r"0.weight .* is sparse \(torch.sparse_csr\)"),
        (exported, "^the model was exported by torch.export.* it must be a plain module. Use"),
        (lambda: exported().module(), "^the model was exported by torch.export"),
        (lambda: torch.export.unflatten(exported()), "^the model was exported by torch.export"),
        (lambda: nn.Sequential(exported().module(), nn.Dropout(0.5)), "^0 was exported"),
        (lambda: torch.jit.script(network()), "RecursiveScriptModule with dropout inside.*plain"),
        (lambda: torch.jit.trace(network().eval(), IMAGES_N), "TopLevelTracedModule with dropout"),
        (lambda: nn.Linear, "the model is the class torch.nn.modules.linear.Linear; it must be"),
        (lambda: lambda x_N: x_N, "the model is a function; it must be a torch.nn.Module"),
    ],
)
def test_models_that_cannot_run_are_refused_by_name(model: Callable[[], Any], told: str) -> None:
    with pytest.raises(PosteriorError, match=told):
        MCDropout(model(), samples=2).log_probs(IMAGES_N)


def test_a_lazy_model_is_taken_once_it_has_run() -> None:
    model = lazy()
    posterior = MCDropout(model, samples=2)
    with pytest.raises(PosteriorError, match="lazy"):
        posterior.log_probs(IMAGES_N)
    model(IMAGES_N)
    assert posterior.log_probs(IMAGES_N).shape == (4, 2, 3)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES_N.numpy(), "images is a numpy.ndarray; it must be a torch.Tensor. Make one with"),
        ([*IMAGES_N], "images is a list; it must be a torch.Tensor.*torch.stack"),
        (None, "images is a NoneType"),
        (IMAGES_N.to_sparse(), r"images is sparse \(torch.sparse_coo\); it must be dense"),
        (IMAGES_N.to("meta"), "images is on the meta device; it must hold values"),
        (torch.tensor(1.0), r"mini-batch has shape \[\]; it must be \[N"),
        (IMAGES_N[:0], r"mini-batch has shape \[0, 12\]; it must be \[N"),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "use",
    [
        MCDropout.check,
        MCDropout.log_probs,
        MCDropout.predict,
        MCDropout.sites,
        MCDropout.statistics,
        lambda posterior, images: posterior.sample(0)(images),
    ],
)
def test_images_that_are_no_dense_tensor_are_refused_everywhere(
    use: Callable[[MCDropout, Any], Any], images: Any, told: str
) -> None:
    with pytest.raises(PosteriorError, match=told):
        use(MCDropout(network(), samples=2), images)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"samples": 5.0}, "samples is 5.0; it must be a whole number, at least 1"),
        ({"samples": "5"}, "samples is '5'; it must be a whole number"),
        ({"samples": True}, "samples is True; it must be a whole number"),
        ({"samples": None}, "samples is None; it must be a whole number"),
        ({"samples": 0}, "samples is 0; it must be a whole number, at least 1"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number$"),
    ],
)
def test_numbers_that_are_not_whole_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(PosteriorError, match=told):
        MCDropout(network(), **settings)


@pytest.mark.parametrize("k", [1.5, -1])
def test_a_sample_has_a_number_from_0(k: Any) -> None:
    with pytest.raises(PosteriorError, match=f"k is {k}; it must be a whole number, at least 0"):
        MCDropout(network()).sample(k)


@pytest.mark.parametrize("number", [np.int64(5), torch.tensor(5), 5])
def test_any_integer_type_is_taken(number: Any) -> None:
    taken = whole_number("samples", number)
    assert taken == 5
    assert type(taken) is int


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (np.zeros((4, 1, 3)), "first_N_K_C is a numpy.ndarray; it must be a torch.Tensor"),
        (torch.zeros(3, 1, 3), r"first_N_K_C has shape \[3, 1, 3\]; it must be \[4 images"),
    ],
)
def test_predictions_of_other_images_are_refused(first: Any, told: str) -> None:
    with pytest.raises(PosteriorError, match=told):
        MCDropout(network(), samples=2).predict(IMAGES_N, first_N_K_C=first)
