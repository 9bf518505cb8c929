"""Tests of stochastic rules against their distributions (Kirsch et al. 2023, section 3)."""

import math
from collections import Counter
from hashlib import blake2b
from itertools import pairwise, permutations
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baal_ray.config import SelectionConfig
from baal_ray.errors import SelectionError
from baal_ray.ids import IdSet
from baal_ray.score_names import RANKING_RULES, STOCHASTIC_RULES, Rule
from baal_ray.selection import top_k
from baal_ray.selection.ranking import Ranking
from baal_ray.selection.ranking_rules import information
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.scores import score_files
from score_tables import picks, scores

JOINT = {rule for rule in get_args(Rule) if SelectionConfig(k=1, by=rule).joint}
BALD = {"a": 0.8, "b": 0.4, "c": 0.2, "d": 0.1}
DRAWS = 3000


def weight(rule, image, coldness):
    match rule:
        case "power_bald":
            return BALD[image] ** coldness
        case "softmax_bald":
            return math.exp(coldness * BALD[image])


def test_the_configuration_knows_the_same_rules():
    assert {*RANKING_RULES} == {*get_args(Rule)} - JOINT
    assert {SelectionConfig(k=1, by=rule).ranked_by for rule in JOINT} == {"bald"}


@pytest.mark.parametrize("coldness", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("rule", STOCHASTIC_RULES)
def test_pairs_are_drawn_without_replacement_by_weight(rule, coldness):
    # P(i, then j) = w_i / Σw · w_j / (Σw − w_i), and each count is within 4 standard errors.
    rows = scores(list(BALD), list(BALD.values()))
    drawn = Counter()
    for seed in range(DRAWS):
        first, second, *_ = np.argsort(-information(rows, rule, seed, coldness))
        drawn[list(BALD)[first], list(BALD)[second]] += 1
    weights = {image: weight(rule, image, coldness) for image in BALD}
    total = sum(weights.values())
    for first, second in permutations(BALD, 2):
        p = weights[first] / total * weights[second] / (total - weights[first])
        error = math.sqrt(p * (1 - p) / DRAWS)
        assert drawn[first, second] / DRAWS == pytest.approx(p, abs=4 * error)


def reference(values, rule, k, seed, coldness):
    """Pick in plain Python, from all scores at once, with the highest score of each id."""
    best = {}
    for image, score in values:
        drawn = score is not None and math.isfinite(score)
        if drawn and (rule == "softmax_bald" or score > 0):
            best[image] = max(score, best.get(image, -math.inf))

    def noisy(image):
        digest = blake2b(image.encode(), digest_size=16, key=str(seed).encode()).digest()
        u = ((int.from_bytes(digest[:8], "big") >> 12) + 0.5) / 2**52
        log_weight = {
            "power_bald": math.log(best[image]) if best[image] > 0 else None,
            "softmax_bald": best[image],
        }[rule]
        return log_weight - math.log(-math.log(u)) / coldness

    return sorted(best, key=noisy, reverse=True)[:k]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, math.nan, math.inf, -math.inf, None]),
        min_size=1,
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    k=st.integers(1, 30),
    rule=st.sampled_from(STOCHASTIC_RULES),
    seed=st.integers(0, 3),
    coldness=st.sampled_from([0.3, 1.0, 8.0]),
)
def test_however_scores_are_sharded_the_draw_is_one(
    tmp_path_factory, values, cuts, k, rule, seed, coldness
):
    folder = str(tmp_path_factory.mktemp("scores"))
    rows = [(f"i{n}", value) for n, value in enumerate(values)]
    for start, end in pairwise([0, *sorted(cuts), len(rows)]):
        if shard := rows[start:end]:
            publish_table(folder, scores([i for i, _ in shard], [s for _, s in shard]))
    out = IdSet.of(["i3"])
    found = top_k(folder, k, rule, seed, leave_out=out, coldness=coldness)
    expected = reference([row for row in rows if row[0] != "i3"], rule, k, seed, coldness)
    assert picks(found) == expected
    assert found["score"].equals(found["bald"])
    assert set(found["rule"].to_pylist()) <= {rule}
    ranking = Ranking(rule, seed, leave_out=out, coldness=coldness)
    assert picks(ranking.ids(score_files(folder), k)) == expected


@pytest.mark.parametrize("coldness", [1e-6, 1.0, 100.0])
def test_an_image_without_any_bald_is_never_drawn(tmp_path, coldness):
    # The weight 0^β is 0. Of the others, 1e-30 is the smallest that still counts.
    values = [0.0] * 10 + [1e-30] * 5 + [0.5] * 5
    publish_table(str(tmp_path), scores([f"i{n:02}" for n in range(20)], values))
    for seed in range(20):
        drawn = picks(top_k(str(tmp_path), 20, "power_bald", seed, coldness=coldness))
        assert sorted(drawn) == [f"i{n}" for n in range(10, 20)]
    ranking = Ranking("power_bald", coldness=coldness)
    assert ranking.count(score_files(str(tmp_path))) == 10
    assert len(top_k(str(tmp_path), 20, "softmax_bald", coldness=coldness)) == 20


def test_an_image_has_the_same_noise_in_every_stage():
    # The last stage then ranks candidates by more samples, but under the same draw.
    first, again = scores(["a", "b", "c"], [0.1, 0.2, 0.3]), scores(["c", "a"], [0.6, 0.2])
    for rule, change in (("power_bald", math.log(2)), ("softmax_bald", 0.3)):
        before, after = information(first, rule, 7), information(again, rule, 7)
        assert after[0] - before[2] == pytest.approx(change, abs=1e-6)


@pytest.mark.parametrize("rule", sorted(JOINT))
def test_rules_for_several_images_at_once_need_more_than_scores(tmp_path, rule):
    publish_table(str(tmp_path), scores(["a"], [0.1]))
    with pytest.raises(SelectionError, match="by is"):
        top_k(str(tmp_path), 1, rule)


def test_foreign_scores_of_another_type_will_do(tmp_path):
    rows = [f"i{n}" for n in range(6)]
    table = pa.table({"id": rows, "bald": pa.array(np.linspace(1 / 3, 1, 6))})
    publish_table(str(tmp_path), table)
    assert sorted(picks(top_k(str(tmp_path), 6, "power_bald"))) == rows
