"""Tests of a random control beside the best: its images, their order and replacements."""

import numpy as np
import pyarrow as pa
import pytest

from baal_ray.ids import IdSet
from baal_ray.pool import list_pool
from baal_ray.score_names import BALD_WITHOUT
from baal_ray.selection import batch as batch_module
from baal_ray.selection import top_k
from baal_ray.selection.batch import Picker, pick_batch
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.batches import read_batch
from baal_ray.workspace.table_schemas import BATCH, SCORES
from pools import CLASSES, round_config, write_pool

IMAGES = 200
IDS = [f"image-{i:04}" for i in range(IMAGES)]
BEST = IDS[::-1]  # by BALD
UNREADABLE = IDS[7]


def publish_scores(folder, ids=IDS):
    """Write scores in two files: BALD grows with the image's number, and one image has none."""
    number = np.array([int(id[-4:]) for id in ids])
    error = [("empty" if id == UNREADABLE else None) for id in ids]
    columns = {
        "id": ids,
        "source": ["there"] * len(ids),
        "samples": [4] * len(ids),
        "bald": [None if e else n / IMAGES for n, e in zip(number, error, strict=True)],
        "predicted": [None if e else n % 3 for n, e in zip(number, error, strict=True)],
        "error": error,
    }
    columns |= dict.fromkeys(BALD_WITHOUT, columns["bald"])
    nulls = [None] * len(ids)
    rows = pa.table([pa.array(columns.get(f.name, nulls), f.type) for f in SCORES], schema=SCORES)
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return [publish_table(str(folder), half) for half in halves]


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return publish_scores(tmp_path_factory.mktemp("scores"))


@pytest.fixture
def ranking(tmp_path, scores):
    def make(seed=5, **selection):
        settings = {"k": 20, "random_share": 0.25} | selection
        config = round_config(tmp_path, selection=settings)
        return Picker(config, None, "model", scores, scores, None, seed)

    return make


def control_of(picks):
    rows = picks.to_pylist()
    return [row["id"] for row in rows if row["rule"] == "random"]


def active_of(picks):
    return [row["id"] for row in picks.to_pylist() if row["rule"] != "random"]


def test_the_control_is_drawn_from_the_pool_and_the_best_from_the_rest(ranking):
    gone = IdSet.of(BEST[:10])
    picks = ranking().picks(gone, None)
    control = control_of(picks)
    assert len(control) == 5
    assert not gone.contains(picks["id"]).any()
    assert active_of(picks) == [id for id in BEST[10:] if id not in control][:15]
    assert picks["rank"].to_pylist() == list(range(1, 21))
    assert len(set(picks["id"].to_pylist())) == 20
    assert picks.equals(ranking().picks(gone, None))
    assert control_of(ranking(seed=6).picks(gone, None)) != control


def test_the_control_favours_no_image(ranking):
    # Five of 199 images are drawn in each of 400 rounds: each about 10 times, with a standard
    # deviation of 3.1. So Σ (times - 10)² / 10 is about 199 · (1 - 5/199) = 194, with a variance
    # of twice that.
    drawn = dict.fromkeys(IDS, 0)
    for seed in range(400):
        for id in control_of(ranking(seed=seed).picks(IdSet.of([]), None)):
            drawn[id] += 1
    times = np.array([count for id, count in drawn.items() if id != UNREADABLE])
    assert drawn[UNREADABLE] == 0
    chi_squared = ((times - times.mean()) ** 2 / times.mean()).sum()
    assert abs(chi_squared - 194) < 4 * np.sqrt(2 * 194)
    best, rest = times[-50:].mean(), times[:-50].mean()
    assert abs(best - rest) < 4 * np.sqrt(10 / 50 + 10 / 149)


def test_picks_say_what_the_model_took_them_for(ranking):
    for row in ranking().picks(IdSet.of([]), None).to_pylist():
        number = int(row["id"][-4:])
        assert row["predicted"] == CLASSES[number % 3]
        assert row["score"] == (None if row["rule"] == "random" else np.float32(number / IMAGES))


@pytest.mark.parametrize(("k", "share"), [(20, 0.25), (7, 0.3), (100, 0.01), (9, 0.9), (10, 0.5)])
def test_in_every_part_of_the_ranks_there_is_the_controls_share(ranking, k, share):
    picks = ranking(k=k, random_share=share).picks(IdSet.of([]), None)
    random = np.array(picks["rule"].to_pylist()) == "random"
    assert random.sum() == round(share * k)
    labelled = np.arange(1, k + 1)
    assert np.abs(random.cumsum() - labelled * random.sum() / k).max() < 1


def test_without_a_share_the_batch_is_the_best(ranking, scores):
    picks = ranking(random_share=0.0).picks(IdSet.of([]), None)
    assert picks["id"].to_pylist() == top_k(scores, 20, seed=5)["id"].to_pylist()


def test_the_best_of_a_last_stage_have_a_control_from_the_whole_pool(ranking, tmp_path):
    # The last stage has scored only the 30 best, in another order.
    last = publish_scores(tmp_path / "last", BEST[:30])
    chosen = ranking()
    staged = Picker(
        chosen.config, None, "model", chosen.scores, last, IdSet.of(BEST[:30]), chosen.draw_seed
    )
    picks = staged.picks(IdSet.of([]), None)
    assert control_of(picks) == control_of(chosen.picks(IdSet.of([]), None))
    assert set(control_of(picks)) - set(BEST[:30])
    assert set(active_of(picks)) <= set(BEST[:30])
    assert len(picks) == 20


def test_a_pool_that_is_smaller_than_the_batch_is_taken_whole(ranking):
    for left in (12, 3):  # the control alone is 5
        picks = ranking().picks(IdSet.of(BEST[left:]), None)
        assert set(picks["id"].to_pylist()) == set(BEST[:left])
        assert len(control_of(picks)) == min(5, left)


def test_without_scores_all_picks_are_random(tmp_path):
    write_pool(tmp_path, images=30)
    config = round_config(tmp_path, selection={"random_share": 0.2})
    listing = list_pool(config.pool, str(tmp_path / "listing"))
    picks = Picker(config, listing, None, [], [], None, 0).picks(IdSet.of([]), None)
    assert picks["rule"].to_pylist() == ["random"] * 10
    assert picks["predicted"].null_count == 10


class Pool:
    """A pool that lacks some images."""

    def __init__(self, lost):
        self.lost = set(lost)

    def ids(self):
        return IdSet.of(set(IDS) - self.lost)

    def write_batch(self, listing, selection, folder, config, evaluation):
        there = pa.array([id not in self.lost for id in selection["id"].to_pylist()])
        rows = selection.filter(there)
        image = pa.array([b"x"] * len(rows), pa.binary())
        return [publish_table(folder, rows.append_column(BATCH.field("image"), image))]


def test_what_is_lost_is_replaced_by_its_own_kind(ranking, tmp_path, monkeypatch):
    # The pool lacks two of the best, two of the control, and many other images.
    before = ranking().picks(IdSet.of([]), None)
    active, control = active_of(before), control_of(before)
    pool = Pool([active[0], active[3], control[1], control[4], *IDS[:40:2]])
    monkeypatch.setattr(batch_module, "write_batch", pool.write_batch)
    chosen = ranking()
    chosen = Picker(chosen.config, pool, "model", chosen.scores, chosen.scores, None, 5)
    done = pick_batch(chosen, str(tmp_path / "batch"), IdSet.of([]))
    assert (done.acquired, done.random, done.rule) == (20, 5, "bald")
    picks = read_batch([f"{tmp_path}/batch/{name}" for name in done.files])
    drawn = top_k(chosen.scores, IMAGES, "random", 6)["id"].to_pylist()
    control = [id for id in drawn if id not in pool.lost][:5]
    assert control_of(picks) == control
    there = [id for id in BEST if id not in pool.lost and id not in control]
    assert active_of(picks) == there[:15]
    # BALD is the same without any fifth of the samples, so all that it picked stay.
    assert done.stability.mean == 1
