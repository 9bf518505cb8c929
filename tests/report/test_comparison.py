import pytest

from baal_ray.report.comparison import Comparison, ErrorCount, comparison_lines


def test_the_difference_and_its_interval_are_newcombes():
    compared = Comparison(ErrorCount(56, 70), ErrorCount(48, 80))
    assert compared.difference == pytest.approx(0.2)
    assert compared.interval() == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_how_many_more_labels_would_do_is_about_right():
    # (1.96 / 0.005)² · (0.295 · 0.705 + 0.3 · 0.7 / 9) = 35,500, of which 1,000 are there.
    compared = Comparison(ErrorCount(2700, 9000), ErrorCount(295, 1000))
    assert compared.random_labels_missing() == pytest.approx(34_500, rel=0.03)
    *_, verdict = comparison_lines([compared])
    assert "about 35,000 more labelled random picks" in verdict


@pytest.mark.parametrize(("active", "random"), [(30, 20), (20, 30), (12, 10)])
def test_so_many_labels_would_do_and_a_few_less_would_not(active, random):
    # 100 active and 100 random picks are labelled. `active` and `random` are the wrong ones.
    compared = Comparison(ErrorCount(active, 100), ErrorCount(random, 100))
    missing = compared.random_labels_missing()
    low, high = compared.interval(1 + 1.01 * missing / 100)
    assert low > 0 or high < 0
    low, high = compared.interval(1 + 0.9 * missing / 100)
    assert low < 0 < high


def test_rates_that_are_the_same_are_never_told_apart():
    assert Comparison(ErrorCount(5, 50), ErrorCount(1, 10)).random_labels_missing() is None


@pytest.mark.parametrize(
    ("active", "random", "told"),
    [
        (
            ErrorCount(60, 100),
            ErrorCount(10, 100),
            "The model was wrong about more of the active picks. T",
        ),
        (
            ErrorCount(10, 100),
            ErrorCount(60, 100),
            "The model was wrong about fewer of the active picks t",
        ),
        (
            ErrorCount(30, 100),
            ErrorCount(2, 10),
            "No clear difference yet: at these rates it takes about 79",
        ),
        (
            ErrorCount(0, 100),
            ErrorCount(0, 10),
            "No clear difference yet: at these rates a million labelled",
        ),
    ],
)
def test_the_verdict_is_that_of_the_interval(active, random, told):
    *_, verdict = comparison_lines([Comparison(active, random)])
    assert verdict.startswith(told)


def test_rounds_without_a_control_are_not_pooled_with_those_that_have_one():
    # The first model was wrong about everything, and nothing was drawn at random then.
    rounds = [Comparison(ErrorCount(50, 50)), Comparison(ErrorCount(10, 20), ErrorCount(10, 20))]
    header, active, random, *_ = comparison_lines(rounds)
    assert "rounds: 1;" in header
    assert "50.0% of 20" in active
    assert "50.0% of 20" in random


def test_without_any_control_it_says_how_to_have_one():
    (line,) = comparison_lines([Comparison(ErrorCount(3, 9))])
    assert "selection.random_share" in line
    assert list(comparison_lines([])) == []
    assert list(comparison_lines([Comparison(random=ErrorCount(3, 9))])) == []
