"""Tests of EPIG against its definition, the mean over targets of KL(p(y, y*) ‖ p(y) p(y*))."""

from math import log

import pytest
import torch

from baal_ray.acquisition import bald
from baal_ray.selection import epig as module
from baal_ray.selection.epig import epig
from scenarios import random_log_probs


def by_definition(probs_N_K_C, target_probs_M_K_C):
    values = []
    for p_K_C in probs_N_K_C:
        of_targets = []
        for q_K_C in target_probs_M_K_C:
            joint_C_C = sum(torch.outer(p, q) for p, q in zip(p_K_C, q_K_C, strict=True)) / len(
                p_K_C
            )
            apart_C_C = torch.outer(p_K_C.mean(dim=0), q_K_C.mean(dim=0))
            of_targets.append((joint_C_C * (joint_C_C / apart_C_C).log()).sum().item())
        values.append(sum(of_targets) / len(of_targets))
    return values


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 3**2 * 3, 8 * 3**2 * 9, 2**26])
def test_values_are_those_of_the_definition(chunk_bytes, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_BYTES", chunk_bytes)
    log_probs_N_K_C, targets_M_K_C = random_log_probs(5, 8, 3), random_log_probs(4, 8, 3)
    expected = by_definition(log_probs_N_K_C.double().exp(), targets_M_K_C.double().exp())
    assert epig(log_probs_N_K_C, targets_M_K_C).tolist() == pytest.approx(expected, abs=1e-9)


def test_samples_that_are_each_sure_of_another_class_tell_all_of_each_other():
    log_probs_N_K_C = torch.eye(4).log().unsqueeze(0)
    assert epig(log_probs_N_K_C, log_probs_N_K_C).item() == pytest.approx(log(4))


def test_what_only_matters_elsewhere_is_worth_nothing():
    # All samples agree about the targets. BALD would ask for labels, but EPIG has nothing to gain.
    log_probs_N_K_C = random_log_probs(6, 8, 3)
    targets_M_K_C = random_log_probs(2, 1, 3).expand(2, 8, 3)
    assert bald(log_probs_N_K_C).min() > 0.001
    assert epig(log_probs_N_K_C, targets_M_K_C).tolist() == pytest.approx([0] * 6, abs=1e-9)


@pytest.mark.parametrize("targets", [(0, 8, 3), (2, 7, 3), (2, 8, 4)])
def test_targets_of_another_shape_or_none_are_refused(targets):
    with pytest.raises(ValueError, match="there must be targets, with the same K and C"):
        epig(random_log_probs(5, 8, 3), torch.zeros(targets))
