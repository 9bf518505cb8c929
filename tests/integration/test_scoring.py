import platform
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import requests
import torch

from baal_ray.acquisition import bald
from baal_ray.checkpoint import load_checkpoint, save_checkpoint
from baal_ray.cluster import runtime_env
from baal_ray.config import ModelConfig, PoolConfig, ResourcesConfig, ScoringConfig, StageConfig
from baal_ray.errors import ConfigError, ResourceError, TraceError
from baal_ray.ids import IdSet
from baal_ray.images import decode_many, encode_png
from baal_ray.model import build_classifier
from baal_ray.pool import list_pool, read_pool
from baal_ray.pool.decoding_task import decode
from baal_ray.posterior import MCDropout
from baal_ray.score_names import BALD_WITHOUT, SCORE_COLUMNS, STABILITY_COLUMNS
from baal_ray.scoring import score_pool
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.kept_samples import kept_log_probs
from baal_ray.scoring.scorer import NOT_FINITE, Columns, PoolScorer
from baal_ray.scoring.stage import release_if_failed, through_actors
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import checkpoint_uri
from pools import CLASSES, round_config, score_without_ray, table, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")

MODEL = ModelConfig(image_size=[12, 12])


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    torch.manual_seed(0)
    sha256 = save_checkpoint(str(tmp_path), build_classifier(MODEL, 3), MODEL, CLASSES)
    return checkpoint_uri(str(tmp_path), sha256)


def read_scores(folder: str) -> pd.DataFrame:
    return pq.read_table(folder).to_pandas().set_index("id").sort_index()


def test_scores_are_the_mean_over_posterior_samples_whatever_runs_them(
    tmp_path: Path, checkpoint: str
) -> None:
    write_pool(tmp_path, images=150)
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    config = ScoringConfig(samples=5, batch_size=64)
    one = score_pool(pool, checkpoint, str(tmp_path / "one"), config=config)
    resources = ResourcesConfig(scoring_actors=2, scoring_cpus=0.5)
    two = score_pool(pool, checkpoint, str(tmp_path / "two"), config=config, resources=resources)
    assert (one.scored, two.scored) == (150, 150)
    scores = read_scores(one.uri)
    columns = [*SCORE_COLUMNS, *STABILITY_COLUMNS, "predicted"]
    # Bit for bit at one mini-batch size, as each is padded to it.
    pd.testing.assert_frame_equal(scores[columns], read_scores(two.uri)[columns], check_exact=True)

    classifier = load_checkpoint(checkpoint).classifier
    pixels, _ = decode_many(table(0, 150)["image"].to_pylist(), 12, 12, max_pixels=10**6)
    posterior = MCDropout(classifier, samples=5)
    probs = [posterior.sample(k)(torch.from_numpy(pixels)).exp().detach() for k in range(5)]
    confidence = torch.stack(probs).mean(dim=0).amax(dim=1).numpy()
    np.testing.assert_allclose(scores["confidence"], confidence, atol=1e-5)
    for left_out, column in enumerate(BALD_WITHOUT):  # K = 5: one sample each
        others = [p.log() for k, p in enumerate(probs) if k != left_out]
        np.testing.assert_allclose(scores[column], bald(torch.stack(others, 1)), atol=1e-5)


class RowsOfEach(PoolScorer):
    """A scorer that returns the number of images of each of its mini-batches."""

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        return pa.table({"rows": [len(rows["id"])]})


@pytest.mark.parametrize("decode_on", ["cpu", "gpu"])
def test_mini_batches_are_whole_and_made_apart_from_the_actor(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch, decode_on: str
) -> None:
    # Of some hundred images, as 128 MB are of a few hundred large ones.
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 50_000)
    image = table(0, 1)["image"][0].as_py()
    (tmp_path / "image.png").write_bytes(image)
    ids = [f"{number}" for number in range(1100)]
    uris = pa.table({"id": ids, "uri": ["image.png"] * 1100})
    pq.write_table(uris, tmp_path / "pool.parquet")
    pool = read_pool(list_pool(PoolConfig(uri=str(tmp_path / "pool.parquet")), ""))
    # Of as many CPUs as a task that decodes, which Ray Data would rather run inside it.
    resources = ResourcesConfig(scoring_cpus=1)
    config = ScoringConfig.model_validate({"samples": 2, "batch_size": 48, "decode_on": decode_on})
    done = through_actors(
        pool, RowsOfEach, ScoringJob(checkpoint, config, resources)
    ).materialize()
    # Read by tasks of 512, 512 and 76.
    assert sorted(row["rows"] for row in done.take_all()) == [28, 32, 32] + [48] * 21
    made = "decode" if decode_on == "cpu" else "with_area"
    assert f"ReadPool->MapBatches({made})->StreamingRepartition" in done.stats()
    assert "->MapBatches(RowsOfEach)" not in done.stats()


class Refusing(PoolScorer):
    """A scorer that cannot start."""

    def __init__(self, job: ScoringJob) -> None:
        raise ResourceError("there is no room; enlarge the node")


def test_an_error_of_ours_in_the_start_of_an_actor_is_raised(
    tmp_path: Path, checkpoint: str
) -> None:
    write_pool(tmp_path, images=10)
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    job = ScoringJob(checkpoint, ScoringConfig(batch_size=8))
    with pytest.raises(ResourceError, match=r"^there is no room; enlarge the node$"):
        release_if_failed(through_actors(pool, Refusing, job).materialize)


def test_images_may_be_decoded_where_they_are_scored(tmp_path: Path, checkpoint: str) -> None:
    write_pool(tmp_path, images=150)
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    config, resources = ScoringConfig(samples=3, batch_size=64), ResourcesConfig()
    on_gpu = config.model_copy(update={"decode_on": "gpu"})
    job = ScoringJob(checkpoint, on_gpu, resources)
    by_actors = through_actors(pool, PoolScorer, job).to_pandas().set_index("id").sort_index()
    by_cpu = score_without_ray(table(0, 150), ScoringJob(checkpoint, config))
    assert list(by_actors.index) == list(by_cpu.index)
    # Equal, because these are PNGs, which the CPU decodes in both cases.
    columns = [*SCORE_COLUMNS, *STABILITY_COLUMNS, "samples", "predicted"]
    np.testing.assert_array_equal(
        by_actors[columns].to_numpy(np.float32), by_cpu[columns].to_numpy(np.float32)
    )
    with pytest.raises(ConfigError, match=r"resources\.scoring_gpus is 0"):
        score_pool(pool, checkpoint, str(tmp_path / "scores"), config=on_gpu)


def test_a_scorer_may_be_called_by_several_threads(checkpoint: str) -> None:
    rows = [decode(table(i, 20).select(["id", "image"]), 12, 12, 10**6) for i in range(0, 200, 20)]
    scorer = PoolScorer(ScoringJob(checkpoint, ScoringConfig(samples=5)))
    one_by_one = [scorer(each) for each in rows]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(scorer, rows * 3)) == one_by_one * 3


class FreshPages(PoolScorer):
    """A scorer that counts the kernel's pages for large tensors, after others were freed."""

    def __call__(self, rows: Columns | pa.Table) -> pa.Table:
        pages = []
        for _ in range(15):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for megabytes in (20, 100, 300):
                torch.empty(megabytes * 2**20, dtype=torch.uint8).fill_(1)
            pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        return pa.table({"pages": pages})


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other ways")
def test_an_actor_keeps_its_memory_for_the_next_mini_batch(tmp_path: Path) -> None:
    model = ModelConfig(image_size=32)
    sha256 = save_checkpoint(str(tmp_path), build_classifier(model, 3), model, CLASSES)
    checkpoint = checkpoint_uri(str(tmp_path), sha256)
    pool = read_pool(list_pool(PoolConfig(uri=str(write_pool(tmp_path, images=10))), ""))
    config, resources = ScoringConfig(samples=2), ResourcesConfig(scoring_cpus=0.5)
    done = through_actors(pool, FreshPages, ScoringJob(checkpoint, config, resources))
    # Not of the first few: the bytes of another thread may lie where 300 MiB were, once or twice.
    assert done.to_pandas()["pages"].median() < 420 * 2**20 / resource.getpagesize() / 100


@pytest.mark.parametrize(("gpus", "image_size"), [(0.5, [224, 224]), (0, [31, 33])])
def test_where_that_gains_nothing_an_actor_starts_sooner(
    gpus: float, image_size: list[int]
) -> None:
    assert runtime_env(gpus, image_size) == {}


@pytest.mark.parametrize("samples", [1, 2])
def test_one_or_two_samples_have_scores_but_no_error_of_them(
    checkpoint: str, samples: int
) -> None:
    rows = decode(table(0, 3).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = PoolScorer(ScoringJob(checkpoint, ScoringConfig(samples=samples)))(rows).to_pandas()
    assert scores["error"].isna().all()
    assert scores[list(SCORE_COLUMNS)].notna().all().all()
    assert scores[list(STABILITY_COLUMNS)].isna().all().all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_model_may_run_in_16_bits_and_scores_change_a_little(
    checkpoint: str, precision: str
) -> None:
    rows = decode(table(0, 20).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = []
    for name in ("float32", precision):
        config = ScoringConfig.model_validate({"samples": 5, "precision": name})
        scored = PoolScorer(ScoringJob(checkpoint, config))(rows)
        scores.append(scored.select(list(SCORE_COLUMNS)).to_pandas())
    np.testing.assert_allclose(*scores, atol=0.02)
    assert (scores[0] != scores[1]).any().any()


SMALL = {"samples": 2, "further_stages": [{"samples": 5, "share": 0.125}]}


@pytest.mark.parametrize("by", ["bald", "margin"])
def test_the_most_promising_of_each_mini_batch_keep_their_log_probs(
    checkpoint: str, by: str
) -> None:
    rows = decode(table(0, 20).select(["id", "image"]), 12, 12, max_pixels=10**6)
    rows["error"][3] = "cut short"
    config = ScoringConfig.model_validate(SMALL)
    plain = PoolScorer(ScoringJob(checkpoint, config))(rows)
    assert plain["log_probs"].null_count == 20
    scored = PoolScorer(ScoringJob(checkpoint, config), keep_by=by)(rows)
    # Bit for bit, whether log-probabilities are kept or not.
    assert scored.drop_columns("log_probs").equals(plain.drop_columns("log_probs"))
    scores = scored.to_pandas().dropna(subset=by)
    best = scores.nsmallest(8, by) if by == "margin" else scores.nlargest(8, by)
    kept = scores[scores["log_probs"].notna()]
    assert set(kept.index) == set(best.index)
    log_probs = np.stack([np.frombuffer(row, np.float32).reshape(2, 3) for row in best.log_probs])
    np.testing.assert_allclose(bald(torch.from_numpy(log_probs)), best["bald"], atol=1e-6)


def test_a_further_stage_draws_only_the_samples_that_the_one_before_has_not(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ScoringConfig.model_validate({**SMALL, "batch_size": 16})
    more = config.at_stage(0)
    rows = decode(table(0, 30).select(["id", "image"]), 12, 12, max_pixels=10**6)
    parts = [
        {name: column[s] for name, column in rows.items()} for s in (slice(16), slice(16, 30))
    ]
    first_stage = PoolScorer(ScoringJob(checkpoint, config), keep_by="bald")
    files = [publish_table(str(tmp_path / "first"), first_stage(part)) for part in parts]
    ids = pa.concat_tables(map(pq.read_table, files)).to_pandas().dropna(subset="log_probs")["id"]
    assert len(ids) == 6 + 6

    everything = kept_log_probs(files, IdSet.of(rows["id"].tolist()), 2)
    assert everything.images == 12
    candidates = {name: column[np.isin(rows["id"], ids)] for name, column in rows.items()}
    flat = PoolScorer(ScoringJob(checkpoint, more))
    columns = [*SCORE_COLUMNS, *STABILITY_COLUMNS]

    def scored(scorer: PoolScorer, rows: Columns) -> pd.DataFrame:
        return scorer(rows).select(columns).to_pandas()

    expected = scored(flat, candidates)
    further = PoolScorer(ScoringJob(checkpoint, more), first=everything)
    assert further._first is not None
    with monkeypatch.context() as patch:  # nothing is drawn again
        patch.delattr(further._first, "_posterior")
        np.testing.assert_allclose(scored(further, candidates), expected, atol=1e-5)
    # What was not kept is drawn.
    some = {name: column[:16] for name, column in rows.items()}
    np.testing.assert_allclose(scored(further, some), scored(flat, some), atol=1e-5)
    nothing = kept_log_probs(files, IdSet.of([]), 2)
    further = PoolScorer(ScoringJob(checkpoint, more), first=nothing)
    assert nothing.images == 0
    np.testing.assert_allclose(scored(further, candidates), expected, atol=1e-5)

    # And what was kept counts: other log-probabilities are other scores.
    arrays = [np.roll(array, 1, axis=-1) for array in ray.get(everything.log_probs_N_K_C)]
    wrong = replace(everything, log_probs_N_K_C=[ray.put(array) for array in arrays])
    further = PoolScorer(ScoringJob(checkpoint, more), first=wrong)
    assert np.abs(scored(further, candidates) - expected).to_numpy().max() > 1e-3


def test_what_changes_scores_changes_where_they_are_kept() -> None:
    settings: list[dict[str, object]] = [
        {},
        {"samples": 21},
        {"samples": 100},
        {"masks": "per_item"},
        {"stochastic_depth": True},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"batch_size": 65},
        {"max_pixels": 10**6},
    ]
    folders = [
        ScoringJob("a/model", ScoringConfig.model_validate(setting)).folder("scores")
        for setting in settings
    ]
    assert len({*folders}) == len(settings)
    stages = [StageConfig(samples=100, share=0.05)]
    same = ScoringConfig(max_unreadable=1, further_stages=stages)
    assert ScoringJob("b/model/", same).folder("scores") == folders[0]
    assert ScoringJob("b/model", same.at_stage(0)).folder("scores") == folders[2]


@pytest.mark.parametrize("masks", ["shared", "per_item"])
def test_an_image_has_the_same_score_in_mini_batches_of_1_7_and_256(
    checkpoint: str, masks: str
) -> None:
    rows = decode(table(0, 40).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = []
    for size in (1, 7, 256):
        config = ScoringConfig.model_validate({"samples": 3, "batch_size": size, "masks": masks})
        scorer = PoolScorer(ScoringJob(checkpoint, config))
        parts = [
            scorer({name: column[start : start + size] for name, column in rows.items()})
            for start in range(0, 40, size)
        ]
        scores.append(pa.concat_tables(parts).select(list(SCORE_COLUMNS)).to_pandas())
    for other in scores[1:]:
        np.testing.assert_allclose(scores[0], other, atol=1e-5)


def test_only_what_is_not_scored_yet_is_scored_and_rotten_files_are_scored_again(
    tmp_path: Path, checkpoint: str
) -> None:
    scores, config = str(tmp_path / "scores"), ScoringConfig(samples=2)
    some = ray.data.from_arrow(table(0, 20))
    everything = ray.data.from_arrow(table(0, 50))
    assert score_pool(some, checkpoint, scores, config=config).scored == 20
    done = score_pool(everything, checkpoint, scores, config=config)
    assert (done.scored, done.rows) == (30, 50)
    before = read_scores(done.uri)

    (rotten, *_) = sorted(Path(done.uri).glob("*.parquet"), key=lambda file: file.stat().st_size)
    data = bytearray(rotten.read_bytes())
    data[len(data) // 2] ^= 1
    rotten.write_bytes(data)
    Path(done.uri, ".DS_Store").write_bytes(b"junk")
    assert score_pool(everything, checkpoint, scores, config=config).scored in (20, 30)
    pd.testing.assert_frame_equal(read_scores(done.uri), before, check_exact=True)
    assert len(before) == 50


def test_actors_killed_in_the_middle_of_a_mini_batch_change_nothing(tmp_path: Path) -> None:
    # A death after seven passes comes after a mini-batch of four samples and most of the next.
    write_pool(tmp_path, images=100)
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    torch.manual_seed(0)
    model = MODEL.model_copy(
        update={"factory": "pools:Fragile", "arguments": {"folder": str(tmp_path), "deaths": 2}}
    )
    sha256 = save_checkpoint(str(tmp_path), build_classifier(model, 3), model, CLASSES)
    checkpoint, config = checkpoint_uri(str(tmp_path), sha256), ScoringConfig(samples=4)
    with_deaths = score_pool(pool, checkpoint, str(tmp_path / "with"), config=config, model=model)
    assert len(list(tmp_path.glob("death-*"))) == 2
    assert with_deaths.scored == 100
    with pytest.warns(RuntimeWarning, match="cannot be traced"):
        without = score_without_ray(table(0, 100), ScoringJob(checkpoint, config, model=model))
    pd.testing.assert_frame_equal(
        read_scores(with_deaths.uri).drop(columns="source"),
        without.drop(columns="source"),
        check_exact=True,
    )


def test_an_output_that_is_not_finite_is_an_error_row(tmp_path: Path, checkpoint: str) -> None:
    scorer = PoolScorer(ScoringJob(checkpoint, ScoringConfig(samples=2)))
    with torch.no_grad():
        for weights in scorer._samples.model.parameters():
            weights.fill_(torch.nan)
    rows = decode(table(0, 3).select(["id", "image"]), 12, 12, max_pixels=10**6)
    scores = scorer(rows).to_pandas()
    assert (scores["error"] == NOT_FINITE).all()
    assert scores[list(SCORE_COLUMNS)].isna().all().all()


def test_what_the_cluster_can_never_give_is_told_at_once(checkpoint: str) -> None:
    pool = ray.data.from_arrow(table(0, 3))
    for resources, needed in (
        (ResourcesConfig(scoring_actors=2), "needs 3 CPUs, but the cluster has at most 2"),
        (ResourcesConfig(max_scoring_actors=3), r"scoring \(3 actors.* needs 4 CPUs"),
        (ResourcesConfig(scoring_gpus=1), "needs 1 GPUs, but the cluster has at most 0"),
    ):
        with pytest.raises(ResourceError, match=needed):
            score_pool(pool, checkpoint, "/nowhere", resources=resources)


def test_prometheus_is_told_how_many_images_were_scored(tmp_path: Path) -> None:
    torch.manual_seed(7)  # a model that no other test has
    sha256 = save_checkpoint(str(tmp_path), build_classifier(MODEL, 3), MODEL, CLASSES)
    folder = write_pool(tmp_path, images=70)
    bad = pa.table({"id": ["x", "y", "z"], "image": [b"no image"] * 3})
    pq.write_table(bad, f"{folder}/bad.parquet")
    pool = read_pool(list_pool(round_config(tmp_path).pool, ""))
    checkpoint, scores = checkpoint_uri(str(tmp_path), sha256), str(tmp_path / "scores")
    score_pool(pool, checkpoint, scores, config=ScoringConfig(samples=2))

    (node,) = (node for node in ray.nodes() if node["Alive"])
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def told() -> list[float]:
        lines = requests.get(address, timeout=10).text.splitlines()
        return [
            sum(
                float(line.rsplit(" ", 1)[-1])
                for line in lines
                if line.startswith(f"ray_baal_ray_{name}_total{{") and sha256[:12] in line
            )
            for name in ("images_scored", "images_unreadable")
        ]

    until = time.monotonic() + 60  # Ray collects figures every 10 seconds
    while told() != [70, 3] and time.monotonic() < until:
        time.sleep(1)
    assert told() == [70, 3]


@pytest.mark.usefixtures("nothing_logged")
def test_a_model_that_is_wrong_when_traced_is_run_whole_from_the_next_call_on(
    tmp_path: Path,
) -> None:
    model = ModelConfig(factory="peeking:Peeking", arguments={"side": 12}, image_size=[12, 12])
    sha256 = save_checkpoint(str(tmp_path), build_classifier(model, 3), model, CLASSES)
    checkpoint, scores = checkpoint_uri(str(tmp_path), sha256), tmp_path / "scores"
    images = table(0, 40)
    white = encode_png(np.full((3, 12, 12), 255, np.uint8))
    encoded = [*images["image"].to_pylist()[:-1], white]
    images = images.set_column(images.schema.get_field_index("image"), "image", [encoded])
    pool = ray.data.from_arrow([images.slice(0, 20), images.slice(20)])
    settings = {"config": ScoringConfig(samples=4, batch_size=20), "model": model}
    with pytest.raises(TraceError, match=r"wrong prediction for image .* were deleted. Run this"):
        score_pool(pool, checkpoint, str(scores), **settings)
    assert list(scores.glob("*/*.parquet")) == []
    # Although pytest keeps our error, the actor is gone, and the next call has both CPUs.
    until = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2

    done = score_pool(pool, checkpoint, str(scores), **settings)
    assert done.scored == 40
    classifier = load_checkpoint(checkpoint, model=model).classifier
    pixels, _ = decode_many(encoded[20:], 12, 12, max_pixels=10**6)
    expected = MCDropout(classifier, samples=4, traced=False).statistics(torch.from_numpy(pixels))
    ids = images["id"].to_pylist()[20:]
    np.testing.assert_allclose(
        read_scores(done.uri).loc[ids, "bald"], expected["bald"].numpy(), atol=1e-5
    )
