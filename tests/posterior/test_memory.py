"""Tests that budgets follow the device."""

import os

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from baal_ray.posterior import memory
from baal_ray.posterior.engine.pass_memory import pass_budget, peak_bytes
from baal_ray.posterior.memory import budget

CPU = torch.device("cpu")


def test_the_budget_is_a_share_of_what_the_machine_or_its_control_group_has(tmp_path, monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", [str(limit)])
    assert budget(CPU) == int(machine / 8)
    limit.write_text("max\n")
    assert budget(CPU) == int(machine / 8)
    limit.write_text("80000000\n")
    assert budget(CPU) == 10_000_000
    assert pass_budget(CPU) == 10_000_000


def test_peak_bytes_counts_what_is_alive_at_once():
    # [100] float32 takes 400 bytes. exp and sin are alive while their sum is computed.
    def forward(x):
        return ((x.exp() + x.sin()).cos() + 1).tanh()

    assert peak_bytes(make_fx(forward)(torch.ones(100))) == 1200
