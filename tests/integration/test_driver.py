import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from baal_ray.config import RoundConfig
from baal_ray.driver import RoundResult, run_round
from baal_ray.errors import (
    ConfigError,
    LabelError,
    PlanMismatchError,
    PoolError,
    UnreadableImagesError,
)
from baal_ray.images import decode
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.model import small_convnet
from baal_ray.report.status import workspace_status
from baal_ray.score_names import BALD_WITHOUT, SCORE_COLUMNS, STABILITY_COLUMNS
from baal_ray.scoring import stage
from baal_ray.scoring.batch_size import with_batch_size
from baal_ray.scoring.job import ScoringJob
from baal_ray.selection import top_k
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import checkpoint_uri, manifest_uri
from baal_ray.workspace.records import encoded
from baal_ray.workspace.stage_files import FurtherStage
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE
from pools import (
    label_of,
    picture,
    round_config,
    score_without_ray,
    table,
    write_labelled,
    write_pool,
)

pytestmark = pytest.mark.usefixtures("ray_cluster")


def manifest_of(config: RoundConfig) -> Manifest:
    return Manifest(manifest_uri(config.workspace))


def bring_in_labels(config: RoundConfig, folder: Path) -> None:
    path = write_labelled(folder)
    import_labelled_set(
        manifest_of(config), path, workspace=config.workspace, classes=config.classes
    )


def answer(config: RoundConfig, round_id: str) -> None:
    ids = manifest_of(config).rows(round_id=round_id)["id"].to_pylist()
    labels = pa.table({"id": ids, "label": [label_of(image_id) for image_id in ids]})
    manifest_of(config).label(labels)


def files_below(folder: str) -> set[str]:
    return {str(path) for path in Path(folder).rglob("*") if path.is_file()}


def scores_of(config: RoundConfig, round_id: str) -> str:
    record = Path(config.workspace, "rounds", round_id, "round.json")
    folder = json.loads(record.read_text())["scores"]
    assert isinstance(folder, str)
    return folder


def test_a_round_finds_a_mini_batch_size_and_the_next_one_goes_on_with_it(tmp_path: Path) -> None:
    write_pool(tmp_path)
    config = round_config(tmp_path, scoring={"samples": 4, "batch_size": None})
    bring_in_labels(config, tmp_path)
    assert run_round(config, "first").scored == 300
    (found,) = Path(config.workspace, "checkpoints").rglob("batch-size-*.json")
    size = json.loads(found.read_text())["batch_size"]
    fingerprint = Path(scores_of(config, "first"), "_fingerprint.json")
    assert json.loads(fingerprint.read_text())["batch_size"] == size
    assert size in (16, 32, 64, 128, 256, 512, 1024)
    # No new labels, so the same model: of it all but the picks have scores already.
    assert run_round(config, "second").scored == 0
    assert scores_of(config, "second") == scores_of(config, "first")
    # Another trial might find another size, so there is none.
    found.write_bytes(encoded(json.loads(found.read_text()) | {"batch_size": 17}))
    job = with_batch_size(
        ScoringJob(str(found.parent), config.scoring, config.resources), str(tmp_path)
    )
    assert job.config.batch_size == 17


def test_a_round_scores_the_pool_and_acquires_the_k_most_informative(
    first_round: tuple[RoundConfig, RoundResult],
) -> None:
    config, result = first_round
    assert (result.acquired, result.scored, result.unreadable) == (10, 300, 2)
    scores = pq.read_table(scores_of(config, "2026-11-22")).to_pandas()
    scores = scores[scores["error"].isna()]
    assert sorted(scores["id"]) == table(0, 300)["id"].to_pylist()
    assert (scores["samples"] == 4).all()
    acquired = manifest_of(config).rows(round_id="2026-11-22").to_pandas().sort_values("rank")
    best = scores.sort_values("bald", ascending=False)[:10]
    assert list(acquired["rank"]) == list(range(1, 11))
    assert set(acquired["id"]) == set(best["id"])
    assert list(acquired["score"]) == list(best["bald"])
    assert set(acquired["model"]) == {result.checkpoint}
    assert set(acquired["rule"]) == {"bald"}


def test_a_round_says_how_many_picks_other_samples_would_pick(
    first_round: tuple[RoundConfig, RoundResult],
) -> None:
    # At K = 4, four of the five groups have one sample each, and the last has none.
    config, result = first_round
    scores = pq.read_table(scores_of(config, "2026-11-22")).to_pandas()
    picked = set(scores.nlargest(10, "bald")["id"])
    for column in BALD_WITHOUT[:4]:  # each deviation is stretched by √(2 · 3)
        other = scores["bald"] + 6**0.5 * (scores[column].astype(float) - scores["bald"])
        scores[column] = other.clip(lower=0)
    without = [
        len(picked & set(scores.nlargest(10, column)["id"])) / 10 for column in BALD_WITHOUT[:4]
    ]
    folder = Path(config.workspace, "rounds", "2026-11-22")
    for name in ("batch", "round"):
        stability = json.loads((folder / f"{name}.json").read_text())["stability"]
        assert stability["without"] == without
    assert result.stability == stability["mean"] == pytest.approx(sum(without) / 4)
    said = f"; other samples would pick about {result.stability:.0%} of these images"
    assert said in result.summary()


def test_the_batch_holds_the_images_as_they_are_in_the_pool(
    first_round: tuple[RoundConfig, RoundResult],
) -> None:
    config, _ = first_round
    batch = pq.read_table(Path(config.workspace, "rounds", "2026-11-22", "batch")).to_pylist()
    assert len(batch) == 10
    for row in batch:
        number = int(row["id"].rsplit("-", 1)[1])
        assert row["image"] == picture(number % 3, number)
        assert decode(row["image"], 12, 12, max_pixels=10**6).shape == (3, 12, 12)
        assert row["source"].endswith(f"{number // 100 * 100:05}.parquet")


def test_the_same_round_again_changes_nothing(
    first_round: tuple[RoundConfig, RoundResult],
) -> None:
    config, result = first_round
    before = files_below(config.workspace)
    again = run_round(config, "2026-11-22")
    assert again.committed_before
    assert (again.acquired, again.checkpoint) == (result.acquired, result.checkpoint)
    assert files_below(config.workspace) == before


def test_a_round_planned_otherwise_is_refused_with_what_differs(
    first_round: tuple[RoundConfig, RoundResult],
) -> None:
    config, _ = first_round
    os.remove(Path(config.workspace, "rounds", "2026-11-22", "round.json"))
    selection = config.selection.model_copy(update={"k": 11})
    with pytest.raises(PlanMismatchError) as refused:
        run_round(config.model_copy(update={"selection": selection}), "2026-11-22")
    assert refused.value.faults == ["selection.k was 10 in the plan; it is 11 now"]
    # What it runs on may change, and settings may be newer than the plan; then it goes on where it
    # stood, to the same picks.
    path = Path(config.workspace, "rounds", "2026-11-22", "plan.json")
    plan = json.loads(path.read_text())
    del plan["config"]["scoring"]["precision"], plan["config"]["scoring"]["further_stages"]
    path.write_bytes(encoded(plan))
    resources = config.resources.model_copy(update={"scoring_cpus": 0.75})
    finished = run_round(config.model_copy(update={"resources": resources}), "2026-11-22")
    assert (finished.acquired, finished.committed_before) == (10, False)
    assert manifest_of(config).rows(round_id="2026-11-22").num_rows == 10


def test_a_pool_that_has_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    # Once the pool is scored, the next best images replace those that are gone.
    write_pool(tmp_path, images=60, per_file=30)
    config = round_config(tmp_path)
    bring_in_labels(config, tmp_path)
    run_round(config, "night")
    folder = Path(config.workspace, "rounds", "night")
    (folder / "round.json").unlink()
    pq.write_table(table(0, 20).select(["id", "image"]), tmp_path / "pool" / "00000.parquet")
    (tmp_path / "pool" / "00030.parquet").unlink()
    assert run_round(config, "night").acquired == 10
    for name in ("round", "scores"):
        (folder / f"{name}.json").unlink()
    with pytest.raises(PlanMismatchError) as refused:
        run_round(config, "night")
    rewritten, gone = refused.value.faults
    assert "00000.parquet had row groups of [30] when the round was planned" in rewritten
    assert "00030.parquet cannot be read" in gone


def test_what_a_kill_left_beside_the_batch_is_removed(tmp_path: Path) -> None:
    write_pool(tmp_path, images=60)
    config = round_config(tmp_path)
    batch = Path(config.workspace, "rounds", "night", "batch")
    stray = publish_table(str(batch), table(0, 5))
    (batch / "notes.txt").write_text("of an annotator")
    run_round(config, "night")
    names = {path.name for path in batch.iterdir()}
    assert Path(stray).name not in names
    assert "notes.txt" in names
    rows = pq.read_table([path for path in batch.iterdir() if path.suffix == ".parquet"])
    assert len(rows) == 10


def as_before_formats(workspace: str) -> None:
    """Rewrite a workspace's files as commit a3bbace wrote them.

    They had neither `format` nor `task`, and fits kept Ray Train's folders.
    """
    for path in Path(workspace).rglob("*.json"):
        if "_delta_log" not in path.parts:
            plain = json.loads(path.read_text())
            assert plain.pop("format") == 1
            del plain["checksum"]
            plain.pop("task", None)
            path.write_text(json.dumps(plain))
    (fit,) = Path(workspace, "fits").iterdir()
    (fit / "checkpoint_2026").mkdir()
    (fit / "checkpoint_2026" / "state.pt").touch()


def test_nights_follow_one_another_in_an_older_workspace_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pool(tmp_path, images=120)
    config = round_config(tmp_path)
    bring_in_labels(config, tmp_path)
    first = run_round(config, "night-1")
    as_before_formats(config.workspace)
    assert run_round(config, "night-1") == first.model_copy(update={"committed_before": True})

    # Nobody labelled: the same model, nothing to score, and so no actor. The next best are taken.
    with monkeypatch.context() as patch:
        patch.delattr(stage, "through_actors")
        second = run_round(config, "night-2")
    assert second.checkpoint == first.checkpoint
    assert second.scored == 0
    ranking = top_k(scores_of(config, "night-1"), 20)["id"].to_pylist()
    acquired = manifest_of(config).rows(round_id="night-2").sort_by("rank")
    assert acquired["id"].to_pylist() == ranking[10:]

    # Labels came in, and so did images: a new model scores all that are not acquired.
    answer(config, "night-1")
    pq.write_table(table(120, 130).select(["id", "image"]), tmp_path / "pool" / "new.parquet")
    third = run_round(config, "night-3")
    assert third.checkpoint != first.checkpoint
    assert third.labels == 40 - 4  # a tenth is held out
    assert third.scored == 130 - 20
    ids = manifest_of(config).ids().to_pylist()
    assert len(ids) == len(set(ids)) == 30 + 30
    nights = [row[0] for row in workspace_status(config).rows]
    assert nights[1:] == ["night-1", "night-2", "night-3"]


def test_without_labels_the_first_batch_is_random_and_deterministic(tmp_path: Path) -> None:
    write_pool(tmp_path, images=100)
    picks = []
    for name in ("one", "two"):
        config = round_config(tmp_path).model_copy(update={"workspace": str(tmp_path / name)})
        result = run_round(config, "first")
        assert (result.checkpoint, result.rule, result.scored) == (None, "random", 0)
        assert result.stability is None
        assert "picks stay" not in result.summary()
        rows = manifest_of(config).rows().sort_by("rank")
        assert rows["rule"].unique().to_pylist() == ["random"]
        picks.append(rows["id"].to_pylist())
    assert picks[0] == picks[1]
    assert len(set(picks[0])) == 10


def test_a_given_model_scores_the_pool_without_labels(tmp_path: Path) -> None:
    write_pool(tmp_path, images=60)
    weights = tmp_path / "given.safetensors"
    torch.manual_seed(0)
    save_file(small_convnet(3).state_dict(), weights)
    model = {"image_size": 12, "weights": str(weights)}
    config = round_config(tmp_path, model=model, training={"epochs": 0})
    result = run_round(config, "night")
    assert (result.scored, result.acquired, result.rule) == (60, 10, "bald")
    assert (result.labels, result.metrics) == (0, {})
    assert result.summary().startswith(
        "round night: model.weights without a fit; 60 images scored"
    )
    assert result.checkpoint is not None
    job = ScoringJob(checkpoint_uri(config.workspace, result.checkpoint), config.scoring)
    flat = score_without_ray(pq.read_table(config.pool.uri), job)
    picked = manifest_of(config).rows(round_id="night").sort_by("rank")["id"].to_pylist()
    assert picked == flat.nlargest(10, "bald").index.to_list()
    assert not Path(config.workspace, "fits").exists()
    # The next night has nothing to score.
    again = run_round(config, "later")
    assert (again.checkpoint, again.scored, again.acquired) == (result.checkpoint, 0, 10)


def test_a_pick_that_another_round_took_is_replaced_by_the_next_of_its_kind(
    tmp_path: Path,
) -> None:
    write_pool(tmp_path, images=100)
    config = round_config(tmp_path, selection={"random_share": 0.3})
    bring_in_labels(config, tmp_path)
    manifest = Path(config.workspace, "manifest")
    shutil.copytree(manifest, tmp_path / "before")
    run_round(config, "ours")
    plan = json.loads(Path(config.workspace, "rounds", "ours", "plan.json").read_text())
    drawn = top_k(scores_of(config, "ours"), 4, "random", plan["seed"] + 1)["id"].to_pylist()
    ranking = top_k(scores_of(config, "ours"), 20)["id"].to_pylist()
    active = [image_id for image_id in ranking if image_id not in drawn]
    # As if we had been killed before the commit, and another round had come in between.
    shutil.rmtree(manifest)
    shutil.copytree(tmp_path / "before", manifest)
    os.remove(Path(config.workspace, "rounds", "ours", "round.json"))
    manifest_of(config).acquire(pa.table({"id": [*active[2:5], drawn[1]]}), "theirs")
    result = run_round(config, "ours")
    assert (result.acquired, result.random) == (10, 3)
    assert "7 acquired by bald and 3 at random" in result.summary()
    ours = manifest_of(config).rows(round_id="ours").sort_by("rank").to_pandas()
    by_rule = ours.groupby("rule")["id"].agg(list)
    assert by_rule["random"] == [drawn[0], *drawn[2:]]
    assert by_rule["bald"] == (active[:2] + active[5:])[:7]


def test_further_stages_pick_the_best_candidates_by_the_scores_of_a_flat_round(
    tmp_path: Path,
) -> None:
    write_pool(tmp_path, images=120)
    stages = [{"samples": 8, "share": 0.75}, {"samples": 12, "share": 0.6}]
    config = round_config(tmp_path, scoring={"samples": 4, "further_stages": stages})
    bring_in_labels(config, tmp_path)
    shutil.copytree(Path(config.workspace, "manifest"), tmp_path / "before")
    result = run_round(config, "night")
    assert result.checkpoint is not None
    assert result.further_stages == [
        FurtherStage(samples=8, images=90, scored=90, kept=90),
        FurtherStage(samples=12, images=72, scored=72, kept=72),
    ]
    assert "8 samples for the best 90; 12 samples for the best 72;" in result.summary()
    assert result.stability is not None
    checkpoint = checkpoint_uri(config.workspace, result.checkpoint)
    second, last = (ScoringJob(checkpoint, config.scoring.at_stage(stage)) for stage in (0, 1))
    flat = score_without_ray(pq.read_table(config.pool.uri), last)
    picked = manifest_of(config).rows(round_id="night").sort_by("rank")

    # Each stage keeps the most promising of the one before, with the scores of a flat round.
    folder = Path(config.workspace, "rounds", "night")
    done = json.loads((folder / "candidates.json").read_text())
    first = pq.read_table(scores_of(config, "night")).to_pandas().set_index("id")
    assert (len(first), first["log_probs"].notna().sum()) == (120, 120)
    scores = str(Path(config.workspace, "scores"))
    middle = pq.read_table(second.folder(scores)).to_pandas().set_index("id")
    assert {*middle.index} == {*first.nlargest(90, "bald").index}
    assert done["scores"] == last.folder(scores)
    last_stage = pq.read_table(done["scores"]).to_pandas().set_index("id").sort_index()
    assert {*last_stage.index} == {*middle.nlargest(72, "bald").index}
    best = flat.loc[last_stage.index, "bald"].nlargest(10)
    assert picked["id"].to_pylist() == best.index.to_list()
    np.testing.assert_allclose(picked["score"], best, atol=1e-5)
    columns = ["samples", *SCORE_COLUMNS, *STABILITY_COLUMNS]
    np.testing.assert_allclose(last_stage[columns], flat.loc[last_stage.index, columns], atol=1e-5)

    # Killed while it scored candidates: what is scored is not scored again.
    shutil.rmtree(Path(config.workspace, "manifest"))
    shutil.copytree(tmp_path / "before", Path(config.workspace, "manifest"))
    for name in ("round", "batch", "candidates"):
        os.remove(folder / f"{name}.json")
    files = sorted(Path(done["scores"]).glob("*.parquet"))
    some = pq.read_table(files[0])
    publish_table(done["scores"], some[:30])
    for file in files:
        file.unlink()
    resumed = run_round(config, "night")
    assert [stage.scored for stage in resumed.further_stages] == [0, 72 - 30]
    rows = manifest_of(config).rows(round_id="night").sort_by("rank")
    assert rows["id"].to_pylist() == picked["id"].to_pylist()


def test_scores_and_candidates_outlive_the_files_that_they_were_in(tmp_path: Path) -> None:
    write_pool(tmp_path, images=100, per_file=50)
    scoring = {"samples": 2, "further_stages": [{"samples": 4, "share": 0.01}]}
    config = round_config(tmp_path, scoring=scoring)
    bring_in_labels(config, tmp_path)
    assert run_round(config, "one").further_stages[0].images == 10  # selection.k
    # A night without labels, after which half of the pool is gone and the other has moved.
    (tmp_path / "moved").mkdir()
    (tmp_path / "pool" / "00050.parquet").rename(tmp_path / "moved" / "kept.parquet")
    config = config.model_copy(
        update={"pool": config.pool.model_copy(update={"uri": str(tmp_path / "moved")})}
    )
    result = run_round(config, "two")
    assert (result.scored, result.acquired) == (0, 10)
    assert [stage.images for stage in result.further_stages] == [10]
    rows = manifest_of(config).rows(round_id="two")
    assert rows["source"].unique().to_pylist() == [str(tmp_path / "moved" / "kept.parquet")]
    taken = set(manifest_of(config).rows(round_id="one")["id"].to_pylist())
    ranking = top_k(scores_of(config, "two"), 100)["id"].to_pylist()
    left = [i for i in ranking if i not in taken and int(i.rsplit("-", 1)[1]) >= 50]
    assert set(rows["id"].to_pylist()) == set(left[:10])


def test_picks_at_random_need_no_further_stage(tmp_path: Path) -> None:
    write_pool(tmp_path, images=60)
    scoring = {"samples": 2, "further_stages": [{"samples": 4, "share": 0.5}]}
    config = round_config(tmp_path, scoring=scoring, selection={"by": "random"})
    bring_in_labels(config, tmp_path)
    result = run_round(config, "labelled")
    assert (result.rule, result.further_stages) == ("random", [])
    assert not Path(config.workspace, "rounds", "labelled", "candidates.json").exists()
    scores = pq.read_table(scores_of(config, "labelled"))
    assert scores["log_probs"].null_count == len(scores)


def test_unreadable_images_are_rows_with_an_error_up_to_a_limit(tmp_path: Path) -> None:
    write_pool(tmp_path, images=60)
    broken = {"html": b"<html>404</html>", "empty": b"", "cut": picture(0, 1)[:-30], "null": None}
    rows = {"id": list(broken), "image": pa.array(list(broken.values()), pa.binary())}
    pq.write_table(pa.table(rows), tmp_path / "pool" / "broken.parquet")
    config = round_config(tmp_path)
    bring_in_labels(config, tmp_path)
    with pytest.raises(
        UnreadableImagesError, match=r"4 of 64 images .* 1\.00%\. The most frequent reason is: "
    ):
        run_round(config, "night")
    assert manifest_of(config).rows(round_id="night").num_rows == 0

    scoring = config.scoring.model_copy(update={"max_unreadable": 0.1})
    config = config.model_copy(update={"scoring": scoring})
    result = run_round(config, "night")
    assert (result.scored, result.unreadable, result.acquired) == (0, 4, 10)
    scores = pq.read_table(scores_of(config, "night")).to_pandas()
    scores = scores.drop_duplicates(["id", "error"]).set_index("id")
    assert scores["error"].notna().sum() == 4
    assert scores.loc[list(broken), ["bald", "confidence", "predicted"]].isna().all().all()
    assert not set(manifest_of(config).rows(round_id="night")["id"].to_pylist()) & set(broken)
    assert scores.loc["html", "error"] != scores.loc["empty", "error"]

    # What is mended is scored by the next round, with the same model.
    rows["image"] = [picture(0, seed) for seed in range(4)]
    pq.write_table(pa.table(rows), tmp_path / "pool" / "broken.parquet")
    result = run_round(config, "later")
    assert (result.scored, result.unreadable) == (4, 0)


def write_evaluation_set(folder: Path) -> str:
    """Write 40 evaluation images: 5 of the pool, copies of 5 others, and 30 that are not in it."""
    copies = table(5, 10)
    ids = [f"copy-{image_id}" for image_id in copies["id"].to_pylist()]
    rows = [table(0, 5), copies.set_column(0, "id", [ids]), table(9500, 9530)]
    path = folder / "evaluation.parquet"
    pq.write_table(pa.concat_tables(rows), path)
    return str(path)


def test_evaluation_images_of_the_pool_are_neither_scored_nor_picked(tmp_path: Path) -> None:
    write_pool(tmp_path, images=60)
    evaluation_set = write_evaluation_set(tmp_path)
    training = {"evaluation_set": evaluation_set}
    config = round_config(tmp_path, training=training, selection={"k": 45})
    # Five are known by their ids. Copies are found only among the picks while nothing is scored.
    first = run_round(config, "random")
    picked = manifest_of(config).rows(round_id="random")["id"].to_pylist()
    assert first.acquired == len(set(picked)) == 45
    assert not set(picked) & {f"image-{i:04}" for i in range(10)}
    assert 5 < first.evaluation_images <= 10
    told = f"{first.evaluation_images} left out because they are evaluation images; 45 acquired"
    assert told in first.summary()

    answer(config, "random")
    second = run_round(config, "scored")
    assert (second.scored, second.acquired, second.unreadable) == (5, 5, 0)
    assert second.evaluation_images == 10
    record = Path(config.workspace, "rounds", "scored", "scores.json")
    assert json.loads(record.read_text())["evaluation_images"] == 5
    errors = pq.read_table(scores_of(config, "scored"))["error"].drop_null().to_pylist()
    assert errors == [EVALUATION_IMAGE] * 5

    # A copy that becomes an evaluation image after it was scored is found among the picks.
    picks = manifest_of(config).rows(round_id="scored").sort_by("rank").select(["id"])
    manifest_of(config).release(picks)
    best = int(picks["id"][0].as_py()[-4:])
    copy = table(best, best + 1).set_column(0, "id", [["copy-of-a-pick"]])
    rows = pa.concat_tables([pq.read_table(evaluation_set), copy])
    pq.write_table(rows, evaluation_set)
    third = run_round(config, "late")
    assert (third.scored, third.acquired, third.evaluation_images) == (0, 4, 11)
    record = Path(config.workspace, "rounds", "late", "batch.json")
    assert json.loads(record.read_text())["evaluation_images"] == 1
    late = manifest_of(config).rows(round_id="late")["id"].to_pylist()
    assert late == sorted(picks["id"].to_pylist()[1:])


def test_labelled_images_in_the_evaluation_set_stop_the_round_before_its_fit(
    tmp_path: Path,
) -> None:
    write_pool(tmp_path, images=20)
    evaluation_set = write_labelled(tmp_path, 9029, 10)
    config = round_config(tmp_path, training={"evaluation_set": evaluation_set})
    bring_in_labels(config, tmp_path)
    with pytest.raises(LabelError, match="1 labelled images, such as 'image-9029', are also in"):
        run_round(config, "night")
    assert not Path(config.workspace, "fits").exists()
    # The remedy of the message.
    pq.write_table(table(9030, 9039), evaluation_set)
    assert run_round(config, "tomorrow").acquired == 10


def test_a_folder_of_image_files_is_a_pool(tmp_path: Path) -> None:
    for i in range(30):
        path = tmp_path / "pool" / f"class-{i % 3}" / f"Ünï {i:02}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i % 3, i))
    config = round_config(tmp_path, pool={"format": "files"})
    bring_in_labels(config, tmp_path)
    result = run_round(config, "night")
    assert (result.scored, result.acquired) == (30, 10)
    for row in manifest_of(config).rows(round_id="night").to_pylist():
        assert row["source"] == str(tmp_path / "pool" / row["id"])


def test_a_pool_smaller_than_k_is_taken_whole_and_then_there_is_nothing_to_do(
    tmp_path: Path,
) -> None:
    write_pool(tmp_path, images=7)
    config = round_config(tmp_path)
    assert run_round(config, "one").acquired == 7
    bring_in_labels(config, tmp_path)
    nothing = run_round(config, "two")
    assert (nothing.acquired, nothing.scored) == (0, 0)
    assert nothing.summary().endswith("; nothing to acquire: the pool has no image left to pick")
    assert manifest_of(config).rows(round_id="two").num_rows == 0


def test_mistakes_are_told_before_anything_is_written(tmp_path: Path) -> None:
    config = round_config(tmp_path)
    with pytest.raises(ConfigError, match=r"'\.\./x'; it must be 1 to 100 letters"):
        run_round(config, "../x")
    with pytest.raises(PoolError, match=r"no \.parquet, \.parq, \.pq files"):
        run_round(config, "night")
    pq.write_table(table(0, 3), tmp_path / "pool.parquet")
    doubled = pd.concat([table(0, 3).to_pandas()] * 2)
    pq.write_table(pa.Table.from_pandas(doubled), tmp_path / "doubled.parquet")
    config = round_config(tmp_path, pool={"uri": str(tmp_path / "doubled.parquet")})
    with pytest.raises(PoolError, match=r"3 ids .*'image-0000' in .*doubled\.parquet"):
        run_round(config, "night")
    assert not files_below(config.workspace)
