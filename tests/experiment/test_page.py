import pytest

from baal_ray.experiment.page import experiment_page
from curves import curves, needed
from pages import faults_of, text_of

SAVES, ALIKE, COSTS = (0.6, 0.5, 0.7), (0.95, 0.8, 1.1), (1.3, 1.1, 1.5)
EVEN = (1.0, 1.0, 1.0)


def test_it_says_of_each_rule_what_its_figures_say():
    rules = {"bald": 0.05, "margin": 0.0, "confidence": -0.05, "random": 0.0}
    rows = zip(rules, (SAVES, ALIKE, COSTS, EVEN), strict=True)
    page = experiment_page(
        curves(rules),
        needed(*((rule, 0.7, ratio) for rule, ratio in rows)),
        {"k": 10},
        ["A note."],
    )
    text = text_of(page)
    assert faults_of(page) == []
    assert "bald is better than random picks." in text
    assert "margin shows no clear difference from random picks." in text
    assert "confidence is worse than random picks." in text
    assert "bald: +5.0 percentage points over the whole curve (95 % interval +5.0 to +5.0)" in text
    assert "confidence: -5.0 percentage points" in text
    assert "A note." in text
    assert len(page) < 500_000


@pytest.mark.parametrize(("seeds", "warned"), [(1, True), (4, True), (5, False)])
def test_few_seeds_are_warned_of(seeds: int, warned: bool):
    made = experiment_page(
        curves({"bald": 0.1, "random": 0}, seeds=seeds),
        needed(("bald", 0.7, SAVES), ("random", 0.7, EVEN), seeds=seeds),
        {},
    )
    assert faults_of(made) == []
    assert ("before you decide" in text_of(made)) is warned
    assert ("With one seed, this may be luck." in text_of(made)) is (seeds == 1)


def test_without_random_picks_nothing_is_claimed():
    text = text_of(experiment_page(curves({"bald": 0.1}), needed(("bald", 0.7, None)), {}))
    assert "There are no random picks" in text
    assert "bald cannot be compared with random picks" in text
    assert "better than random" not in text


def test_an_unfinished_experiment_is_one():
    whole = curves({"bald": 0.1, "random": 0.0}, seeds=5)
    page = experiment_page(whole.slice(0, len(whole) - 6), needed(), {})
    assert faults_of(page) == []
    assert "the experiment is unfinished" in text_of(page)


def test_names_are_text_wherever_they_stand():
    name = "<script>alert(1)</script>"
    made = experiment_page(
        curves({name: 0.1, "random": 0.0}),
        needed((name, 0.7, SAVES), ("random", 0.7, EVEN)),
        {name: name},
        [name],
    )
    assert faults_of(made) == []
    assert "<script" not in made
