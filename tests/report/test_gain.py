import pytest

from baal_ray.report.gain import Measured, comparable_models, gain_between, gain_lines
from baal_ray.workspace.rounds import FinishedRound
from pools import round_config
from stage_files import plan, round_record


@pytest.fixture
def config(tmp_path):
    return round_config(tmp_path, training={"evaluation_set": "/data/evaluation.parquet"})


def round_of(config, name, labels, correct, images=80):
    metrics = {"accuracy": correct / images, "images": float(images)}
    return FinishedRound(plan(config=config), round_record(name, labels=labels, metrics=metrics))


def lines(config, *rounds):
    return list(gain_lines(config, comparable_models(config, rounds)))


def test_a_gain_is_the_difference_of_accuracies_by_label():
    # From 48 of 80 to 56 of 70 is Newcombe's own example. Here it takes 200 labels.
    before, after = Measured("a", 300, 48, 80), Measured("b", 500, 56, 70)
    gain = gain_between(before, after)
    assert gain.points == pytest.approx(100 * 0.2 / 2)
    assert gain.interval == pytest.approx((100 * 0.0524 / 2, 100 * 0.3339 / 2), abs=5e-3)
    assert str(gain) == "+10.00 (+2.62 to +16.69)"
    assert gain_between(after, before) is None
    assert gain_between(before, before) is None


def test_the_last_gain_is_from_three_rounds_with_new_labels_ago(config):
    # A night without new labels used the same model again.
    nights = [("a", 20, 10), ("b", 40, 40), ("c", 60, 50), ("d", 60, 50), ("e", 80, 60)]
    rounds = [round_of(config, *night) for night in [*nights, ("f", 100, 70)]]
    _, *pairs, last = lines(config, *rounds)
    assert [pair.split(":")[0].strip() for pair in pairs] == ["b to c", "c to e", "e to f"]
    assert last.strip().startswith("b to f: +62.50 (")  # 30 of 80 images by 60 labels


@pytest.mark.parametrize(
    ("correct", "verdict"),
    [
        (70, "labels still make the model better."),
        (45, "no gain that 80 evaluation images can distinguish from none."),
        (10, "the model has become worse; look at the labels that came in."),
    ],
)
def test_the_verdict_is_that_of_the_interval(config, correct, verdict):
    told = lines(config, round_of(config, "a", 20, 40), round_of(config, "b", 120, correct))
    assert len(told) == 2
    assert told[1].endswith(verdict)


def test_only_labels_may_make_the_difference(config, tmp_path):
    # Models that were fitted or measured with other settings than these do not count.
    others = [
        {"training": {"evaluation_set": "/data/evaluation.parquet", "epochs": 9}},
        {"training": {"evaluation_set": "/data/other.parquet"}},
        {"training": {}},
        {"classes": [*config.classes, "none"]},
        {"model": {"arguments": {"dropout": 0.1}}},
        {"scoring": {"stochastic_depth": True}},
    ]
    same = round_config(
        tmp_path,
        training={"evaluation_set": "/data/evaluation.parquet", "max_failures": 9},
        selection={"k": 99, "by": "random"},
        scoring={"samples": 50},
    )
    training = {"evaluation_set": "/data/evaluation.parquet"}
    rounds = [
        round_of(round_config(tmp_path, **({"training": training} | other)), "other", number, 40)
        for number, other in enumerate(others)
    ]
    smaller = round_of(config, "smaller", 10, 40, images=50)
    without = FinishedRound(plan(config=config), round_record("none", labels=0, metrics={}))
    ours = [round_of(same, "a", 20, 40), round_of(config, "b", 40, 50)]
    models = comparable_models(config, [*rounds, smaller, without, *ours])
    assert [model.round_id for model in models] == ["a", "b"]


def test_without_two_models_or_a_fixed_evaluation_set_there_is_no_gain(config, tmp_path):
    assert "after two rounds" in lines(config)[0]
    assert "after two rounds" in lines(config, round_of(config, "a", 20, 40))[0]
    held_out = round_config(tmp_path)
    rounds = [round_of(held_out, "a", 20, 40), round_of(held_out, "b", 40, 50)]
    assert lines(held_out, *rounds)[0].startswith("training.evaluation_set is not set")
