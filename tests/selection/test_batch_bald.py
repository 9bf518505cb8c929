"""Tests of BatchBALD against its definition, I(y_1, …, y_b; w) over all combinations of labels."""

import logging
from itertools import product
from math import log

import pytest
import torch

from baal_ray.acquisition import bald
from baal_ray.selection.batch_bald import batch_bald
from scenarios import random_log_probs


def information_together(probs_B_K_C):
    """Return H(y_1 … y_b) − mean_k Σ_i H(y_i | w_k), summed over all combinations of labels."""
    images, _, classes = probs_B_K_C.shape
    joint = 0.0
    for labels in product(range(classes), repeat=images):
        of_each_K = torch.stack([probs_B_K_C[i, :, label] for i, label in enumerate(labels)])
        p = of_each_K.prod(dim=0).mean().item()
        joint -= p * log(p) if p else 0.0
    return joint - torch.special.entr(probs_B_K_C).sum(dim=(0, 2)).mean().item()


def greedily(log_probs_N_K_C, k):
    probs_N_K_C = log_probs_N_K_C.double().exp()
    picks, values = [], []
    for _ in range(k):
        others = [n for n in range(len(probs_N_K_C)) if n not in picks]
        together = {n: information_together(probs_N_K_C[[*picks, n]]) for n in others}
        picks.append(max(together, key=together.get))
        values.append(together[picks[-1]])
    return picks, values


@pytest.mark.parametrize(("images", "samples", "classes", "k"), [(9, 7, 3, 5), (7, 20, 2, 6)])
def test_picks_and_their_information_are_those_of_brute_force(images, samples, classes, k):
    log_probs_N_K_C = random_log_probs(images, samples, classes)
    batch = batch_bald(log_probs_N_K_C, k)
    picks, values = greedily(log_probs_N_K_C, k)
    assert batch.picks_B.tolist() == picks
    assert batch.gains_B.cumsum(0).tolist() == pytest.approx(values, abs=1e-6)
    assert batch.gains_B[0].item() == pytest.approx(bald(log_probs_N_K_C).max().item(), abs=1e-6)


def test_over_drawn_combinations_it_is_nearly_that():
    # Three images have 27 combinations of labels, of which 20 are drawn, for 20 seeds.
    log_probs_N_K_C = random_log_probs(4, 10, 3)
    exact = batch_bald(log_probs_N_K_C, 4).gains_B.sum().item()
    drawn = [
        batch_bald(log_probs_N_K_C, 4, configurations=20, seed=seed).gains_B.sum().item()
        for seed in range(20)
    ]
    spread = torch.tensor(drawn).std().item()
    assert spread > 0
    assert sum(drawn) / 20 == pytest.approx(exact, abs=4 * spread / 20**0.5 + 1e-3)
    assert drawn[0] == batch_bald(log_probs_N_K_C, 4, configurations=20).gains_B.sum().item()


def test_exactly_as_many_combinations_as_may_be_are_not_taken_for_drawn_ones():
    # The 27 combinations of the first three images just fit, and are not equally likely.
    log_probs_N_K_C = random_log_probs(6, 30, 3)
    exact = batch_bald(log_probs_N_K_C, 4).gains_B
    drawn = torch.stack(
        [batch_bald(log_probs_N_K_C, 4, configurations=27, seed=s).gains_B for s in range(50)]
    )
    assert torch.equal(drawn[:, :3], exact[:3].expand(50, 3))
    error = 4 * drawn[:, 3].std() / 50**0.5
    assert drawn[:, 3].mean().item() == pytest.approx(exact[3].item(), abs=error.item() + 1e-4)


def test_a_copy_of_the_best_image_adds_less_than_another():
    # Image 0 and its copy separate the first of three samples from the others, image 2 the second.
    sure = torch.tensor([[0.99, 0.01], [0.01, 0.99]])
    probs_N_K_C = torch.stack([sure[[0, 1, 1]], sure[[0, 1, 1]], sure[[0, 1, 0]] * 0.9 + 0.05])
    assert batch_bald(probs_N_K_C.log(), 2).picks_B.tolist() == [0, 2]
    assert bald(probs_N_K_C.log()).topk(2).indices.sort().values.tolist() == [0, 1]


def test_when_labels_tell_the_samples_apart_the_rest_is_by_bald_and_that_is_said(caplog):
    # Two images tell four samples apart. The best of the others by BALD comes next.
    classes = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    log_probs_N_K_C = torch.nn.functional.one_hot(classes, 2).double().log()
    with caplog.at_level(logging.WARNING):
        batch = batch_bald(log_probs_N_K_C, 4)
    assert batch.picks_B.tolist() == [0, 1, 2, 3]
    assert batch.gains_B.tolist() == pytest.approx([log(2), log(2), 0, 0], abs=1e-6)
    assert "the labels of 2 images tell all 4 posterior samples apart" in caplog.text


@pytest.mark.parametrize("k", [0, 4])
def test_a_batch_that_is_larger_than_the_candidates_is_refused(k):
    with pytest.raises(ValueError, match="it must be in 1…3"):
        batch_bald(random_log_probs(3, 4, 2), k)
