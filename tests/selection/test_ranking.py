import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baal_ray import acquisition, storage
from baal_ray.errors import CorruptFileError, SelectionError
from baal_ray.ids import IdSet, hash_ids
from baal_ray.score_names import BALD_WITHOUT, RANKING_RULES, SCORE_COLUMNS, STABILITY_COLUMNS
from baal_ray.selection import top_k
from baal_ray.selection.other_samples import of_other_samples
from baal_ray.selection.ranking import Ranking
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.scores import score_files
from score_tables import picks, scores

SMALL_FIRST = ("margin", "confidence")


def reference(rows, k, by, seed):
    """Sort all rows in plain Python by each id's most informative score, with ties by the hash."""
    best = {}
    for id, score in rows:
        if score is not None and math.isfinite(score):
            information = -score if by in SMALL_FIRST else score
            best[id] = max(information, best.get(id, -math.inf))
    return sorted(best, key=lambda id: (-best[id], hash_ids([id], seed)[0]))[:k]


# Rows have few distinct values, so that there are ties, and few ids, so that some come twice.
ROWS = st.lists(
    st.tuples(
        st.integers(0, 40).map(str),
        st.sampled_from([0.0, -0.0, 0.1, 0.25, 0.5, 1.0, math.nan, math.inf, -math.inf, None]),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    cuts=st.lists(st.integers(0, 60), max_size=5),
    k=st.integers(1, 50),
    by=st.sampled_from(SCORE_COLUMNS),
    seed=st.integers(0, 3),
)
def test_however_scores_are_sharded_the_picks_are_those_of_a_global_sort(rows, cuts, k, by, seed):
    bounds = [0, *sorted(cuts), len(rows)]
    shards = [rows[a:b] for a, b in pairwise(bounds)]
    tables = [scores([i for i, _ in shard], [s for _, s in shard]) for shard in shards]
    found = Ranking(by, seed).best_of(tables, k)
    assert picks(found) == reference(rows, k, by, seed)
    assert found["rank"].to_pylist() == list(range(1, len(found) + 1))
    assert found["score"].equals(found[by])
    assert set(found["rule"].to_pylist()) <= {by}


@settings(max_examples=50, deadline=None)
@given(
    withouts=st.lists(
        st.lists(st.sampled_from([None, math.nan, 0.0, 0.5, 1.0, 2.0]), min_size=30, max_size=30),
        min_size=5,
        max_size=5,
    ),
    k=st.integers(1, 20),
    seed=st.integers(0, 3),
)
def test_overlaps_are_those_of_a_global_sort_by_each_column(tmp_path_factory, withouts, k, seed):
    ids = [str(n) for n in range(30)]
    columns = dict(zip(BALD_WITHOUT, (pa.array(w, pa.float32()) for w in withouts), strict=True))
    table = scores(ids, [0.1] * 30, **columns)
    folder = str(tmp_path_factory.mktemp("scores"))
    for start in range(0, 30, 7):
        publish_table(folder, table[start : start + 7])
    picked = picks(top_k(folder, k, seed=seed, leave_out=IdSet.of("3"), only=IdSet.of(ids[:25])))
    ranking = Ranking("bald", seed, IdSet.of("3"), IdSet.of(ids[:25]))
    found = ranking.overlaps(score_files(folder), picked)
    others = [
        reference([r for r in zip(ids[:25], w, strict=False) if r[0] != "3"], k, "bald", seed)
        for w in withouts
    ]
    assert found == [len({*other} & {*picked}) / k for other in others if other]


@pytest.mark.parametrize("by", ["bald", "power_bald", "softmax_bald"])
def test_overlaps_are_of_the_same_luck(tmp_path, by):
    # The expected picks are those if the BALD of other samples replaced `bald`.
    rng = np.random.default_rng(0)
    ids = [str(n) for n in range(200)]
    bald_N = rng.gamma(1, 0.1, 200).astype(np.float32)
    columns = {name: bald_N * rng.uniform(0.5, 1.5, 200) for name in BALD_WITHOUT}
    table = scores(ids, bald_N, **columns)
    publish_table(str(tmp_path), table)
    options = {"by": by, "seed": 3, "coldness": 2.0}
    picked = picks(top_k(str(tmp_path), 40, **options))
    expected = []
    for name in BALD_WITHOUT:
        other = of_other_samples(table)[name]
        without = table.set_column(table.column_names.index("bald"), "bald", other)
        others = picks(Ranking(**options).best_of([without], 40))
        expected.append(len({*others} & {*picked}) / 40)
    assert Ranking(**options).overlaps(score_files(str(tmp_path)), picked) == expected
    assert min(expected) < 1


@pytest.mark.parametrize("by", ["bald", "margin"])
def test_what_may_be_picked_is_counted_and_named_without_reading_all_columns(tmp_path, by):
    # One of 14 rows is left out, one is NaN and one is unreadable.
    ids = [f"i{n:02}" for n in range(14)]
    values = [n / 10 for n in range(13)] + [math.nan]
    errors = pa.array(["cut" if n == 12 else None for n in range(14)])
    publish_table(str(tmp_path), scores(ids, values, error=errors))
    leave_out = IdSet.of(ids[:1])
    files = score_files(str(tmp_path))
    assert Ranking(by).count(files) == 12
    assert Ranking(by, leave_out=leave_out).count(files) == 11
    found = Ranking(by, leave_out=leave_out, only=IdSet.of(ids[:11])).ids(files, 4)
    assert picks(found) == (ids[1:5] if by == "margin" else ids[10:6:-1])
    assert found.column_names == ["id", "source"]


def test_log_probs_are_not_read(tmp_path):
    kept = pa.array([b"1234", None], pa.binary())
    publish_table(str(tmp_path), scores("ab", [0.1, 0.2], log_probs=kept))
    assert "log_probs" not in top_k(str(tmp_path), 2).column_names


def test_overlaps_of_one_sample_or_of_no_picks_are_undefined(tmp_path):
    columns = {name: pa.nulls(2, pa.float32()) for name in STABILITY_COLUMNS}
    publish_table(str(tmp_path), scores("ab", [0.1, 0.2], **columns))
    files = score_files(str(tmp_path))
    assert Ranking("bald").overlaps(files, ["a"]) == []
    assert Ranking("bald").overlaps(files, []) == []


def test_columns_are_named_alike_where_they_are_made_and_where_they_are_kept():
    columns = acquisition.PredictiveStatistics.of(torch.zeros(1, 1, 2)).columns()
    assert {*columns} == {*SCORE_COLUMNS, *STABILITY_COLUMNS, "predicted"}


def test_a_folder_of_files_and_a_list_of_them_give_the_same(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random(500).astype(np.float32)
    ids = [f"i{n}" for n in range(500)]
    for start in range(0, 500, 120):
        stop = start + 120
        publish_table(str(tmp_path), scores(ids[start:stop], values[start:stop]))
    publish_table(str(tmp_path), scores([], []))
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".half.parquet.tmp").write_text("")
    expected = [ids[i] for i in np.argsort(-values)[:30]]
    assert picks(top_k(str(tmp_path), 30)) == expected
    assert picks(top_k(storage.list_files(str(tmp_path), ".parquet"), 30)) == expected


@pytest.mark.parametrize("by", [*SMALL_FIRST, "bald", "mean_std"])
def test_every_rule_knows_its_direction(by):
    # A small margin or confidence is informative. For all other rules, large values are.
    found = picks(Ranking(by, 0).best_of([scores("abc", [0.2, 0.1, 0.3])], 2))
    assert found == (["b", "a"] if by in SMALL_FIRST else ["c", "a"])


def test_rows_with_an_error_are_never_picked_even_if_they_have_a_score():
    table = scores("ab", [0.9, 0.1], error=pa.array(["truncated", None]))
    assert picks(Ranking("bald", 0).best_of([table], 5)) == ["b"]
    assert picks(Ranking("random", 0).best_of([table], 5)) == ["b"]


def test_there_may_be_fewer_images_than_asked_for_or_none():
    assert picks(Ranking("bald", 0).best_of([scores("ab", [0.1, 0.2])], 10)) == ["b", "a"]
    nothing = Ranking("bald", 0).best_of([scores("ab", [math.nan] * 2)], 10)
    assert nothing.column_names == Ranking("bald", 0).best_of([scores("a", [1.0])], 1).column_names
    assert len(nothing) == 0


def test_some_may_be_left_out_and_some_kept_to():
    table = scores("abcd", [4.0, 3.0, 2.0, 1.0])
    found = Ranking("bald", 0, leave_out=IdSet.of("a"), only=IdSet.of("ac")).best_of([table], 4)
    assert picks(found) == ["c"]
    assert picks(Ranking("bald", leave_out=IdSet.of([])).best_of([table], 4)) == [*"abcd"]
    assert picks(Ranking("bald", only=IdSet.of([])).best_of([table], 4)) == []


def test_when_all_scores_are_equal_no_folder_is_favoured():
    # 500 picks from 10 folders of 200 images are 50 per folder, ±5.8 (hypergeometric).
    ids = [f"folder{f}/{n:03}.jpg" for f in range(10) for n in range(200)]
    tables = [scores(ids[i : i + 200], [0.0] * 200) for i in range(0, 2000, 200)]
    by_folder = Counter(id.split("/")[0] for id in picks(Ranking("bald", 7).best_of(tables, 500)))
    assert all(abs(by_folder[f"folder{f}"] - 50) < 4 * 5.8 for f in range(10))


def test_random_is_the_same_again_for_a_seed_and_uniform_over_seeds():
    # Each of 20 images is among the 5 picks of 1000 seeds 250 ± 13.7 times.
    ids = [f"{n}" for n in range(20)]
    table = pa.table({"id": ids, "source": ids})
    forwards = [picks(Ranking("random", seed).best_of([table], 5)) for seed in range(1000)]
    assert forwards[3] == picks(Ranking("random", 3).best_of([table[10:], table[:10]], 5))
    times = Counter(id for found in forwards for id in found)
    assert all(abs(times[id] - 250) < 4.5 * 13.7 for id in ids)
    assert Ranking("random", 0).best_of([table], 5)["score"].null_count == 5


def test_random_takes_images_whose_scores_say_nothing():
    assert len(Ranking("random", 0).best_of([scores("ab", [math.nan, 0.1])], 2)) == 2


def test_scores_of_different_k_are_not_ranked_together():
    other = scores("c", [0.3], samples=pa.array([100], pa.int32()))
    with pytest.raises(SelectionError, match="20 and 100 posterior samples are mixed"):
        Ranking("bald", 0).best_of([scores("ab", [0.1, 0.2]), other], 2)


@pytest.mark.parametrize(
    ("k", "by", "told"),
    [
        (0, "bald", "k is 0; it must be at least 1"),
        (-1, "bald", "k is -1"),
        (1, "entropy", "by is 'entropy'; it must be one of bald, "),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path, k, by, told):
    with pytest.raises(SelectionError, match=told):
        top_k(str(tmp_path), k, by)


@pytest.mark.parametrize("by", RANKING_RULES)
def test_no_scores_at_all_are_an_error_not_an_empty_batch(tmp_path, by):
    with pytest.raises(SelectionError, match="score the pool first"):
        top_k(str(tmp_path / "nowhere"), 5, by)


def test_a_table_that_is_no_scores_says_what_it_lacks(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "label": ["cat"]}), tmp_path / "labels.parquet")
    with pytest.raises(SelectionError, match="have no column bald; they have id, label"):
        top_k(str(tmp_path), 5)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.99])
def test_a_rotten_file_is_recognised_before_it_is_opened(tmp_path, at):
    uri = publish_table(str(tmp_path), scores([str(n) for n in range(1000)], np.arange(1000.0)))
    data = bytearray(storage.read(uri))
    data[int(at * len(data))] ^= 4
    with open(uri, "wb") as file:
        file.write(data)
    with pytest.raises(CorruptFileError, match="rotten"):
        top_k(str(tmp_path), 5)


def test_scores_of_ones_own_need_no_sha256_in_their_name(tmp_path):
    pq.write_table(scores("ab", [0.1, 0.2]), tmp_path / "mine.parquet")
    assert picks(top_k(str(tmp_path), 1)) == ["b"]


def test_what_does_not_belong_in_a_folder_of_ours_is_passed_over(tmp_path, caplog):
    publish_table(str(tmp_path), scores("ab", [0.1, 0.2]))
    pq.write_table(scores("evil", [9.0] * 4), tmp_path / "copy.parquet")
    for name in (".DS_Store", "._a.parquet", "torn.parquet"):
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    assert picks(top_k(str(tmp_path), 5)) == ["b", "a"]
    assert Ranking("bald").count(score_files(str(tmp_path))) == 2
    assert "copy.parquet is ignored: its name is not a sha256" in caplog.text


@pytest.mark.parametrize("data", [b"", b"PAR1", b"<html>"])
def test_a_file_that_is_no_parquet_is_told_whatever_its_name(tmp_path, data):
    (tmp_path / "mine.parquet").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"mine\.parquet is not a complete Parquet file"):
        top_k(str(tmp_path), 5)
    named = storage.publish_by_sha256(str(tmp_path / "ours"), data, ".parquet")
    with pytest.raises(CorruptFileError, match=f"{named} is not a complete Parquet file"):
        top_k(str(tmp_path / "ours"), 5)


@pytest.mark.parametrize("leave_out_best", [0, 1500])
def test_of_many_files_the_picks_are_those_of_a_global_sort(tmp_path, leave_out_best):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(128):
        values = np.round(rng.gamma(1, 0.1, 40), 3)
        ids = [f"{number}/{image}" for image in range(39)] + ["in all files"]
        rows += zip(ids, values.tolist(), strict=True)
        pq.write_table(scores(ids, values), tmp_path / f"{number:03d}.parquet", row_group_size=7)
    ranked = reference(rows, len(rows), "bald", 0)
    chosen = top_k(str(tmp_path), 500, leave_out=IdSet.of(ranked[:leave_out_best]))
    assert picks(chosen) == ranked[leave_out_best:][:500]
