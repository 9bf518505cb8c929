"""Tests of the kernel for biases, run by Triton's interpreter where there is no GPU."""

import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from baal_ray.posterior import MCDropout
from baal_ray.posterior.engine import fused_bias
from baal_ray.posterior.engine.fused_bias import add_bias, works_on

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Triton interpret the kernel, which it decides when the kernel is defined."""
    kernel = "baal_ray.posterior.engine.bias_kernel"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, kernel, raising=False)
    yield
    sys.modules.pop(kernel, None)


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "hardswish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 24, 5000])
@pytest.mark.parametrize("adds", [False, True])
def test_bias_other_branch_and_activation(
    activation: str, dtype: torch.dtype, channels: int, adds: bool
) -> None:
    plain = {
        "none": nn.Identity(),
        "relu": nn.ReLU(),
        "relu6": nn.ReLU6(),
        "silu": nn.SiLU(),
        "hardswish": nn.Hardswish(),
    }[activation]
    x_N = 4 * torch.randn(2, channels, 1, 3, dtype=torch.float32).to(dtype)
    x_N[0, 0, 0, 0] = torch.nan
    bias_C = torch.randn(channels).to(dtype)
    other_N = torch.randn(x_N.shape).to(dtype) if adds else None
    sum_N = x_N.float() + bias_C.float().view(-1, 1, 1)
    expected_N = plain(sum_N if other_N is None else sum_N + other_N.float()).to(dtype)
    last_N = x_N.clone(memory_format=torch.channels_last)
    found_N = add_bias(last_N, bias_C, other_N, activation)
    torch.testing.assert_close(found_N, expected_N, equal_nan=True)
    assert found_N.data_ptr() == last_N.data_ptr()
    if dtype == torch.float32:
        torch.testing.assert_close(
            add_bias(x_N.clone(), bias_C, other_N, activation), expected_N, equal_nan=True
        )


class Branches(nn.Module):
    """Convolutions with each of the ways in which their outputs are used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 64, 4))

    def forward(self, images_N: Tensor) -> Tensor:
        """Predict."""
        one, two = self.first(images_N), self.second(images_N)
        residual = torch.relu(one + two)
        doubled = (self.third(residual) + 1) * 2
        gated = self.first(doubled) * self.second(doubled).sigmoid()
        twice = self.third(gated)
        other_range = nn.functional.hardtanh(self.first(twice + twice), -1, 1)
        # The second one is added with a factor, so it is not the kernel's.
        return self.head(self.second(other_range).add(residual, alpha=0.5))


def with_dropout(build: partial[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = build()
    if isinstance(model, models.ResNet):
        model.fc = nn.Sequential(nn.Dropout(0.5), model.fc)
    return model.eval()


@pytest.mark.parametrize(
    "build",
    [
        partial(Branches),
        partial(models.resnet18, num_classes=10),
        partial(models.mobilenet_v3_small, num_classes=10),
        partial(models.mobilenet_v2, num_classes=10),
        partial(models.efficientnet_b0, num_classes=10),
    ],
    ids=["branches", "resnet18", "mobilenet_v3", "mobilenet_v2", "efficientnet"],
)
def test_a_network_predicts_the_same(
    build: partial[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_dropout(build)
    side = 8 if build.func is Branches else 32
    images_N = torch.randn(4, 3, side, side)
    expected_N_K_C = MCDropout(model, samples=3).log_probs(images_N)
    fused: list[str] = []
    monkeypatch.setattr(fused_bias, "works_on", lambda device: True)
    monkeypatch.setattr(
        fused_bias, "add_bias", lambda *call: fused.append(call[-1]) or add_bias(*call)
    )
    found_N_K_C = MCDropout(model, samples=3).log_probs(images_N)
    torch.testing.assert_close(found_N_K_C, expected_N_K_C, rtol=1e-4, atol=1e-5)
    assert fused


def test_the_kernel_is_for_gpus_only() -> None:
    assert not works_on(torch.device("cpu"))
