"""Tests of accuracy, likelihood and calibration against arithmetic done by hand."""

from math import log

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from baal_ray.acquisition import PredictiveStatistics
from baal_ray.training.evaluation import class_counts, evaluation_sums, metrics, no_images
from scenarios import random_log_probs

CPU = torch.device("cpu")


def sums(mean_probs, labels):
    """Return the sums of predictions of one posterior sample, which is its own mean."""
    return evaluation_sums(
        PredictiveStatistics.of(torch.tensor(mean_probs).log().unsqueeze(1)),
        torch.tensor(labels),
    )


def test_by_hand():
    # The model is right at 0.9 and 0.8, and wrong at 0.9, so its accuracy is 2/3. The likelihood
    # of the labels is 0.9, 0.8 and 0.1. Of 15 bins, 0.9 falls in the 14th and 0.8 in the 13th:
    # gaps |1 − 1.8| for two images and |1 − 0.8| for one.
    result = metrics(sums([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]], [0, 1, 1]))
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["nll"] == pytest.approx(-(log(0.9) + log(0.8) + log(0.1)) / 3, rel=1e-6)
    assert result["ece"] == pytest.approx((0.8 + 0.2) / 3, rel=1e-6)
    assert result["images"] == 3


def test_it_is_the_averaged_prediction_that_is_judged():
    # The label has 0.9 and 0.2. The mean of 0.55 is right, though one of the two samples is wrong.
    log_probs_N_K_C = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]]).log()
    result = metrics(evaluation_sums(PredictiveStatistics.of(log_probs_N_K_C), torch.tensor([0])))
    assert result["accuracy"] == 1
    assert result["nll"] == pytest.approx(-log(0.55), rel=1e-6)


def test_confidence_of_one_is_in_the_last_bin():
    assert metrics(sums([[1.0, 0.0]], [0]))["ece"] == 0
    assert metrics(sums([[1.0, 0.0]], [1]))["ece"] == 1


def test_parts_add_up_to_the_whole():
    log_probs_N_K_C = random_log_probs(100, 5, 4)
    labels_N = torch.arange(100) % 4
    whole = evaluation_sums(PredictiveStatistics.of(log_probs_N_K_C), labels_N)
    total = no_images(CPU, 4)
    for part in (slice(0, 7), slice(7, 8), slice(8, 8), slice(8, 100)):
        predictions = PredictiveStatistics.of(log_probs_N_K_C[part])
        total += evaluation_sums(predictions, labels_N[part])
    torch.testing.assert_close(total, whole)
    assert metrics(total) == pytest.approx(metrics(whole))
    assert class_counts(total) == class_counts(whole)


def test_no_images_have_no_metrics():
    assert metrics(no_images(CPU, 4)) == {}


def test_an_impossible_label_costs_what_float32_can_say():
    assert metrics(sums([[1.0, 0.0]], [1]))["nll"] == pytest.approx(87.3, abs=0.1)


def test_a_model_that_diverged_is_wrong_and_does_not_crash():
    # NaN as a bin's number is −2^63. On a GPU such an index ends the process.
    nan = float("nan")
    result = metrics(sums([[nan, nan], [0.9, 0.1]], [0, 0]))
    assert result["accuracy"] == 0.5
    assert result["images"] == 2
    assert result["nll"] != result["nll"]


def test_labels_may_be_of_any_integer_type():
    predictions = PredictiveStatistics.of(torch.tensor([[[0.9, 0.1]]]).log())
    for dtype in (torch.int32, torch.uint8):
        assert metrics(evaluation_sums(predictions, torch.tensor([0], dtype=dtype)))


def test_a_class_that_is_never_predicted_has_counts_that_say_so():
    # The model always says 0, so its accuracy of 0.95 hides that it finds no image of class 1.
    always = sums([[0.9, 0.1, 0.0]] * 20, [0] * 19 + [1])
    assert metrics(always)["accuracy"] == 0.95
    counts = class_counts(always)
    assert counts.images == [19, 1, 0]
    assert counts.predicted == [20, 0, 0]
    assert counts.correct == [19, 0, 0]


def test_recall_and_precision_agree_with_scikit_learn():
    log_probs_N_K_C = random_log_probs(200, 5, 4)
    labels_N = torch.arange(200) % 4
    predictions = PredictiveStatistics.of(log_probs_N_K_C)
    counts = class_counts(evaluation_sums(predictions, labels_N))
    precision, recall, _, support = precision_recall_fscore_support(
        labels_N, predictions.predicted()
    )
    correct = torch.tensor(counts.correct)
    assert counts.images == support.tolist()
    assert (correct / torch.tensor(counts.images)).tolist() == pytest.approx(recall.tolist())
    assert (correct / torch.tensor(counts.predicted)).tolist() == pytest.approx(precision.tolist())


def test_a_prediction_that_is_nan_is_of_no_class():
    nan = float("nan")
    counts = class_counts(sums([[nan, nan], [0.9, 0.1]], [0, 0]))
    assert (counts.images, counts.predicted, counts.correct) == ([2, 0], [1, 0], [1, 0])
