import pyarrow as pa
import pytest

from baal_ray.experiment.verdicts import verdicts
from curves import needed

SAVES, ALIKE, COSTS = (0.6, 0.5, 0.7), (0.95, 0.8, 1.1), (1.3, 1.1, 1.5)


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ([SAVES, SAVES], "saves labels"),
        ([SAVES, ALIKE], "saves labels"),
        ([ALIKE, ALIKE], "no clear difference"),
        ([COSTS, ALIKE], "costs labels"),
        ([SAVES, COSTS], "mixed"),
        ([None, None], "not compared"),
        ([(0.9, 0.8, 1.0), ALIKE], "no clear difference"),
    ],
)
def test_a_rule_is_told_from_random_by_where_its_intervals_lie(ratios, outcome):
    rows = [("bald", 0.8 + i / 10, ratio) for i, ratio in enumerate(ratios)]
    (verdict,) = verdicts(needed(("random", 0.8, (1, 1, 1)), *rows))
    assert (verdict.rule, verdict.outcome) == ("bald", outcome)


def test_what_is_not_told_apart_is_said_beside_what_is():
    (verdict,) = verdicts(needed(("bald", 0.8, SAVES), ("bald", 0.9, ALIKE)))
    assert verdict.sentence == (
        "bald saves labels. Labels needed compared with random picks: 0.60 times as many for "
        "accuracy 0.8 (0.50 to 0.70). No clear difference from random picks for accuracy 0.9."
    )


def test_random_picks_may_never_get_there_where_a_rule_does():
    table = needed(("random", 0.9, (1, 1, 1)), ("bald", 0.9, (0.6, 0.0, 0.7)))
    ratio = pa.nulls(2, pa.float64())
    table = table.set_column(table.column_names.index("ratio"), "ratio", ratio)
    (verdict,) = verdicts(table)
    assert verdict.outcome == "saves labels"
    assert "less than 0.70 times as many for accuracy 0.9" in verdict.details


def test_a_rule_may_never_get_there_where_random_picks_do():
    table = needed(("random", 0.9, (1, 1, 1)), ("bald", 0.9, (1.8, 1.5, 9.0)))
    for name in ("ratio", "ratio_high"):
        values = pa.nulls(2, pa.float64())
        table = table.set_column(table.column_names.index(name), name, values)
    (verdict,) = verdicts(table)
    assert verdict.outcome == "costs labels"
    assert "more than 1.50 times as many for accuracy 0.9" in verdict.details


def test_a_target_that_few_seeds_reached_is_named_with_how_many_did():
    (verdict,) = verdicts(needed(("random", 0.9, (1, 1, 1)), ("bald", 0.9, None)))
    assert "0.9 (bald in 1 of 6 seeds, random in 6 of 6)" in verdict.details


@pytest.mark.parametrize(
    ("seeds", "doubt"),
    [(1, "With one seed, this may be"), (3, "With only 3 seeds, this is a hint"), (5, "")],
)
def test_few_seeds_are_said_to_be_few(seeds, doubt):
    (verdict,) = verdicts(needed(("bald", 0.8, SAVES), seeds=seeds))
    assert doubt in verdict.details
    assert bool(doubt) == ("seed" in verdict.details)
