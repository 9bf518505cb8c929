"""Tests of scores against closed forms and baal's own numbers, and on what breaks peers."""

from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baal_ray import acquisition
from baal_ray.acquisition import (
    PredictiveStatistics,
    bald,
    confidence,
    expected_entropy,
    margin,
    mean_std,
    predictive_entropy,
    variation_ratio,
)
from baal_ray.score_names import BALD_WITHOUT, GROUPS, SCORE_COLUMNS
from scenarios import SCENARIOS, random_log_probs

FUNCTIONS = [pytest.param(getattr(acquisition, name), id=name) for name in SCORE_COLUMNS]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_forms(scenario, dtype):
    log_probs_N_K_C = scenario.log_probs_N_K_C.to(dtype)
    for name, expected in scenario.columns.items():
        score_N = getattr(acquisition, name)(log_probs_N_K_C)
        assert score_N.shape == (1,)
        assert score_N.item() == pytest.approx(expected, abs=1e-6), name


def test_every_score_column_has_its_function():
    columns = PredictiveStatistics.of(random_log_probs(5, 4, 3)).columns()
    assert list(columns) == [*SCORE_COLUMNS, "bald_std_error", "predicted", *BALD_WITHOUT]


@pytest.mark.parametrize(
    ("function", "heuristic"),
    [
        (bald, "BALD"),
        (predictive_entropy, "Entropy"),
        (margin, "Margin"),
        (confidence, "Certainty"),
    ],
)
def test_agrees_with_baal(function, heuristic):
    from baal.active import heuristics  # takes seconds, which the other tests need not wait for

    log_probs_N_K_C = random_log_probs(50, 20, 10)
    # baal wants probabilities [N, C, K].
    probs_N_C_K = log_probs_N_K_C.exp().movedim(1, 2).numpy()
    theirs_N = getattr(heuristics, heuristic)().compute_score(probs_N_C_K)
    np.testing.assert_allclose(function(log_probs_N_K_C).numpy(), theirs_N, rtol=1e-9, atol=1e-12)


def test_mean_std_and_variation_ratio_by_their_definitions():
    # baal has neither. Its Variance heuristic averages variances, not standard deviations.
    log_probs_N_K_C = random_log_probs(50, 20, 10)
    probs_N_K_C = log_probs_N_K_C.exp().numpy()
    np.testing.assert_allclose(mean_std(log_probs_N_K_C), probs_N_K_C.std(axis=1).mean(axis=1))
    votes = probs_N_K_C.argmax(axis=2)
    commonest = np.array([np.bincount(votes_K).max() for votes_K in votes])
    np.testing.assert_allclose(variation_ratio(log_probs_N_K_C), 1 - commonest / 20)


@pytest.mark.parametrize("function", FUNCTIONS)
class TestWhatBreaksPeers:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_sixteen_bit_predictions_are_summed_in_float32(self, function, dtype):
        # In float16, 1,000 votes or 70,000 of anything overflow, and 0.1 + 0.0001 is 0.1.
        log_probs_N_K_C = random_log_probs(20, 1000, 10).to(dtype)
        score_N = function(log_probs_N_K_C)
        assert score_N.dtype == torch.float32
        torch.testing.assert_close(
            score_N, function(log_probs_N_K_C.double()).float(), rtol=1e-4, atol=1e-5
        )

    def test_float64_stays(self, function):
        assert function(random_log_probs(3, 4, 5)).dtype == torch.float64

    def test_nan_stays_with_its_image(self, function):
        log_probs_N_K_C = random_log_probs(5, 4, 3)
        clean_N = function(log_probs_N_K_C)
        log_probs_N_K_C[2, 3, 1] = torch.nan
        score_N = function(log_probs_N_K_C)
        others = torch.arange(5) != 2
        assert score_N[2].isnan()
        assert torch.equal(score_N[others], clean_N[others])

    def test_impossible_classes_are_finite(self, function):
        # p = 0 means log p = −∞, so p · log p is NaN if computed literally.
        log_probs_N_K_C = random_log_probs(5, 4, 3)
        log_probs_N_K_C[:, ::2, 0] = -torch.inf
        log_probs_N_K_C = log_probs_N_K_C.log_softmax(dim=-1)
        assert function(log_probs_N_K_C).isfinite().all()

    def test_one_class(self, function):
        assert function(torch.zeros(2, 5, 1)).tolist() == pytest.approx(
            [1.0, 1.0] if function in (margin, confidence) else [0.0, 0.0]
        )

    def test_one_sample_disagrees_with_no_one(self, function):
        score_N = function(random_log_probs(4, 1, 3))
        assert score_N.isfinite().all()
        if function in (bald, mean_std, variation_ratio):
            assert (score_N == 0).all()

    def test_no_images(self, function):
        assert function(torch.zeros(0, 5, 3)).shape == (0,)

    def test_a_wrong_shape_is_refused(self, function):
        with pytest.raises(ValueError, match=r"shape \[4, 3\]; it must be \[N images"):
            function(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="K >= 1"):
            function(torch.zeros(4, 0, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_thousand_samples_that_agree_disagree_by_exactly_nothing(dtype):
    log_probs_N_K_C = random_log_probs(50, 1, 10).to(dtype).expand(50, 1000, 10)
    assert (mean_std(log_probs_N_K_C) == 0).all()
    assert (bald(log_probs_N_K_C) == 0).all()
    assert (variation_ratio(log_probs_N_K_C) == 0).all()


def test_a_mean_rounded_below_zero_has_an_entropy():
    # A probability of 0.99 in the first of 10,001 samples and 0 in the rest leaves −3e-5 in
    # float32.
    statistics = PredictiveStatistics.of(torch.tensor([[[0.99, 0.01]]]).log())
    statistics.add(torch.tensor([[0.0, 1.0]]).log().expand(10_000, 1, 2))
    assert (statistics.mean_probs() >= 0).all()
    assert statistics.predictive_entropy().item() == pytest.approx(0, abs=1e-2)


predictions = st.builds(
    random_log_probs,
    images=st.integers(1, 6),
    samples=st.integers(1, 12),
    classes=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)


@given(predictions)
@settings(max_examples=30, deadline=None)
def test_bald_is_a_mutual_information(log_probs_N_K_C):
    # It is at most H(label) ≤ ln C, and at most ln K, the entropy of the sample's number.
    _, samples, classes = log_probs_N_K_C.shape
    bald_N = bald(log_probs_N_K_C)
    predictive_N = predictive_entropy(log_probs_N_K_C)
    assert (bald_N >= 0).all()
    assert (bald_N <= min(log(samples), log(classes)) + 1e-9).all()
    assert (bald_N <= predictive_N + 1e-9).all()
    torch.testing.assert_close(
        bald_N, (predictive_N - expected_entropy(log_probs_N_K_C)).clamp(min=0)
    )


@given(predictions, st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_samples_does_not_matter(log_probs_N_K_C, random):
    order = list(range(log_probs_N_K_C.shape[1]))
    random.shuffle(order)
    for function in (getattr(acquisition, name) for name in SCORE_COLUMNS):
        torch.testing.assert_close(
            function(log_probs_N_K_C), function(log_probs_N_K_C[:, order]), rtol=0, atol=1e-7
        )


@given(predictions)
@settings(max_examples=20, deadline=None)
def test_streamed_equals_numpy_at_once(log_probs_N_K_C):
    streamed = PredictiveStatistics()
    for some_N_K_C in log_probs_N_K_C.split(2, dim=1):
        streamed.add(some_N_K_C.transpose(0, 1))
    assert streamed.samples == log_probs_N_K_C.shape[1]
    mean_N_C = log_probs_N_K_C.exp().mean(dim=1)
    torch.testing.assert_close(streamed.mean_probs(), mean_N_C)
    torch.testing.assert_close(
        streamed.expected_entropy(),
        -(log_probs_N_K_C * log_probs_N_K_C.exp()).sum(dim=2).mean(dim=1),
    )
    assert torch.equal(streamed.predicted(), mean_N_C.argmax(dim=1))
    for name, score_N in PredictiveStatistics.of(log_probs_N_K_C).columns().items():
        torch.testing.assert_close(
            score_N, streamed.columns()[name], rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("samples", [2, 5, 7, 20])
def test_bald_without_a_group_is_bald_of_the_others(samples):
    log_probs_N_K_C = random_log_probs(30, samples, 10)
    statistics = PredictiveStatistics.of(log_probs_N_K_C)
    for group, without_N in enumerate(statistics.bald_without()):
        others = [k for k in range(samples) if k % GROUPS != group]
        if len(others) in (1, samples):
            assert without_N.isnan().all()
        else:
            torch.testing.assert_close(without_N, bald(log_probs_N_K_C[:, others]))


@pytest.mark.parametrize("samples", [1, 2])
def test_the_standard_error_needs_two_samples_when_one_is_left_out(samples):
    """One sample has a BALD of 0, whatever it is, so leaving out one of two shows nothing."""
    statistics = PredictiveStatistics.of(random_log_probs(3, samples, 4))
    assert statistics.bald_std_error().isnan().all()
    assert torch.stack(statistics.bald_without()).isnan().all()


def test_the_standard_error_is_the_grouped_jackknifes():
    log_probs_N_K_C = random_log_probs(30, 20, 10)
    without_G_N = torch.stack(PredictiveStatistics.of(log_probs_N_K_C).bald_without())
    spread_N = (without_G_N - without_G_N.mean(dim=0)).square().sum(dim=0)
    expected_N = (spread_N * (GROUPS - 1) / GROUPS).sqrt()
    std_error_N = PredictiveStatistics.of(log_probs_N_K_C).bald_std_error()
    torch.testing.assert_close(std_error_N, expected_N)


def test_the_standard_error_is_the_spread_between_repetitions():
    # The BALDs of 400 sets of 20 samples of one image spread as the standard error of each set
    # says. The jackknife errs on the wide side (Efron and Stein 1981), here by an eighth. The
    # spread of 400 is known to 1/√800 = 4 %.
    generator = torch.Generator().manual_seed(0)
    logits_N_K_C = torch.randn(400, 20, 10, generator=generator, dtype=torch.float64)
    statistics = PredictiveStatistics.of(logits_N_K_C.log_softmax(dim=2))
    truth = statistics.bald().std().item()
    claimed = statistics.bald_std_error().square().mean().sqrt().item()
    assert truth < claimed < 1.25 * truth


@pytest.mark.parametrize("make", [Tensor.numpy, Tensor.tolist, Tensor.to_sparse])
def test_only_dense_tensors_are_taken(make):
    with pytest.raises(TypeError, match="it must be a dense torch"):
        bald(make(random_log_probs(3, 2, 4)))
