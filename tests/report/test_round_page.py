import pytest

from baal_ray import storage
from baal_ray.errors import ConfigError
from baal_ray.report import automatic_pages
from baal_ray.report.automatic_pages import report_round, require_extra
from baal_ray.report.round_doubts import doubts
from baal_ray.report.round_facts import gather
from baal_ray.report.round_page import write_round_report
from baal_ray.storage.other_files import OtherFiles
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import report_uri
from baal_ray.workspace.records import ClassCounts
from baal_ray.workspace.rounds import read_stage
from baal_ray.workspace.stage_files import CandidatesResult, Plan, RoundRecord
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE
from pages import faults_of, text_of
from rounds_on_disk import label, score_rows, unreadable_rows, write_round
from stage_files import put

FIXED = {"evaluation_set": "/data/evaluation.parquet"}


def page_of(config, round_id="night-1"):
    page = storage.read(write_round_report(config.workspace, round_id)).decode()
    assert faults_of(page) == []
    return page


def doubts_of(config, round_id="night-1"):
    return " ".join(doubts(gather(config.workspace, round_id)))


def test_it_shows_what_was_acquired_and_what_the_model_thought(tmp_path):
    config = write_round(tmp_path, training=FIXED)
    label(config, {"image-0000": "left", "image-0001": "left"})
    page = page_of(config)
    text = text_of(page)
    assert "3 of 30 images were acquired by bald, after a fit on 40 labels" in text
    assert "right on 80.0% of 500 evaluation images (76.3% to 83.3%)" in text
    assert "1 · 0.600 left · 50% = left image-0000" in text
    assert "2 · 0.550 middle · 50% ≠ left image-0001" in text
    assert "3 · 0.500 right · 50% image-0002" in text
    assert "3 of 30 scored images were acquired (10.0%): those whose bald is at least 0.5" in text
    assert (
        "Of the 2 active picks that have a label by now, the model was wrong about 1 (50%" in text
    )
    assert page.count("<img") == 3
    assert len(page) < 200_000


def test_the_curve_ends_at_the_round(tmp_path):
    write_round(tmp_path, "night-1", labels=20, accuracy=0.5, ids=["a"], training=FIXED)
    config = write_round(tmp_path, "night-2", labels=40, accuracy=0.7, ids=["b"], training=FIXED)
    write_round(tmp_path, "night-3", labels=60, accuracy=0.9, ids=["c"], training=FIXED)
    text = text_of(page_of(config, "night-2"))
    assert "Accuracy is 70.0% with 40 labels; it was 50.0% with 20" in text
    assert "night-3" not in text


def test_names_are_text_wherever_they_stand(tmp_path):
    name = "<script>alert(1)</script>"
    config = write_round(tmp_path, ids=[name], failures=[name], classes=[name, "b", "c"])
    page = page_of(config)
    assert "<script" not in page
    assert text_of(page).count(name) >= 3


def test_failures_are_counted_by_reason_and_once_an_image(tmp_path):
    errors = ["PNG of 12 bytes is truncated", "PNG of 99 bytes is truncated", "its image is null"]
    text = text_of(page_of(write_round(tmp_path, failures=errors)))
    assert "2 PNG of … bytes is truncated broken-0" in text
    assert "1 its image is null broken-2" in text
    assert "3 images of the pool are unreadable" in text


def test_evaluation_images_in_the_pool_are_told_apart_from_unreadable_ones(tmp_path):
    # Of 30 images, 26 are scored, 1 is unreadable, and 2 are known by their bytes and 1 by its id.
    config = write_round(tmp_path, result={"unreadable": 1, "evaluation_images": 3})
    before = read_stage(config.workspace, "night-1", Plan)
    put(config.workspace, "night-1", before.model_copy(update={"evaluation_images": 1}))
    scores = f"{config.workspace}/scores/of-night-1"
    storage.delete_tree(scores)
    ids = [f"image-{i:04}" for i in range(26)]
    publish_table(scores, score_rows(ids, [i / 26 for i in range(26)], [0] * 26))
    errors = ["its image is null", EVALUATION_IMAGE, EVALUATION_IMAGE]
    publish_table(scores, unreadable_rows(["a", "b", "c"], errors))
    text = text_of(page_of(config))
    assert "left out because they are evaluation images 3" in text
    assert "left out because they were acquired before 0" in text
    assert "scored by this model 26 unreadable 1" in text
    assert f"2 {EVALUATION_IMAGE} b" in text
    assert "3 images of the pool are also evaluation images" in text


def test_files_that_were_left_out_of_the_pool_are_counted_on_the_page(tmp_path):
    config = write_round(tmp_path)
    before = read_stage(config.workspace, "night-1", Plan)
    others = OtherFiles()
    for name in ("a.heic", "b.HEIC", "<b>", "_SUCCESS"):
        others.note(name)
    pool = before.pool.model_copy(update={"other_files": others})
    put(config.workspace, "night-1", before.model_copy(update={"pool": pool}))
    assert (
        "3 files left out: 2 .heic, 1 without an extension, such as 'a.heic', '<b>'. If they"
    ) in text_of(page_of(config))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({}, "This is the first round"),
        ({"training": {}}, "Accuracy and calibration are biased"),
        ({"result": {"stability": 0.4}}, "would pick only about 40% of these images"),
        ({"result": {"labels": 0, "metrics": {}}}, "The model was not fitted"),
        ({"result": {"acquired": 2}}, "Only 2 of the 3 wanted images were acquired"),
        ({"result": {"metrics": {"accuracy": 0.5, "ece": 0.3, "images": 9}}}, "off by 0.30"),
    ],
)
def test_what_is_to_be_doubted_is_said(tmp_path, change, doubt):
    assert doubt in doubts_of(write_round(tmp_path, **{"training": FIXED, **change}))


def test_a_class_that_accuracy_hides_is_on_the_page_and_doubted(tmp_path):
    # 95 % of the images are of two classes. None of the 25 others is found.
    counts = ClassCounts(images=[300, 175, 25], predicted=[320, 180, 0], correct=[300, 175, 0])
    config = write_round(tmp_path, training=FIXED, accuracy=0.95, result={"by_class": counts})
    assert (
        "The model finds 0 of the 25 evaluation images of 'right', but 100% of all others. "
        "Accuracy hides this." in doubts_of(config)
    )
    text = text_of(page_of(config))
    assert "right 25 0% (0% to 13%) unknown" in text
    assert "left 300 100% (99% to 100%) 94% (91% to 96%)" in text


def test_classes_without_evaluation_images_are_counted_on_the_page(tmp_path):
    counts = ClassCounts(images=[300, 200, 0], predicted=[280, 219, 1], correct=[270, 190, 0])
    config = write_round(tmp_path, training=FIXED, result={"by_class": counts})
    assert "The evaluation set has no image of 1 class." in text_of(page_of(config))
    assert "The model finds" not in doubts_of(config)


@pytest.mark.parametrize(("now", "reported"), [(0.7, True), (0.77, False)])
def test_a_fall_that_chance_does_not_explain_is_told(tmp_path, now, reported):
    # Two accuracies near 0.8 on 500 images differ by √2 · 1.96 · √(0.16/500) = 0.050 by chance.
    write_round(tmp_path, "night-1", ids=["a"], accuracy=0.8, training=FIXED)
    config = write_round(tmp_path, "night-2", ids=["b"], accuracy=now, training=FIXED)
    assert ("Accuracy fell by" in doubts_of(config, "night-2")) is reported


def test_one_evaluation_image_is_no_certainty(tmp_path):
    # Wilson: 0 of 1 is 0 to z²/(1 + z²) = 0.793, and 1 of 1 its mirror image.
    metrics = {"ece": 0.0, "nll": 1.0, "images": 1}
    for night, accuracy in (("night-1", 1.0), ("night-2", 0.0)):
        config = write_round(
            tmp_path,
            night,
            ids=[night],
            training=FIXED,
            result={"metrics": {**metrics, "accuracy": accuracy}},
        )
    assert "right on 0.0% of 1 evaluation images (0.0% to 79.3%)" in text_of(
        page_of(config, night)
    )
    assert "Accuracy fell by" not in doubts_of(config, night)


def test_picks_that_were_easy_are_told(tmp_path):
    ids = [f"image-{number:04}" for number in range(12)]
    config = write_round(tmp_path, ids=ids, accuracy=0.6, training=FIXED)
    label(config, {image_id: config.classes[i % 3] for i, image_id in enumerate(ids)})
    assert "wrong about 0% of the labelled picks, but about 40%" in doubts_of(config)


def test_the_random_control_is_held_apart(tmp_path):
    # The third pick is random. Its low score is no cut-off, and its label does not count for the
    # rule.
    ids = ["image-0000", "image-0001", "image-0002"]
    config = write_round(tmp_path, ids=ids, control=ids[2:], training=FIXED)
    label(config, dict(zip(ids, [config.classes[n] for n in (1, 1, 0)], strict=True)))
    text = text_of(page_of(config))
    assert "3 of 30 images were acquired by bald, 1 of them at random, after a fit" in text
    assert "those whose bald is at least 0.550, and 1 at random" in text
    assert (
        "Of the 2 active picks that have a label by now, the model was wrong about 1 (50%; "
        in text
    )
    assert "100% of 1 random picks; 20% of the evaluation images" in text


def test_where_alike_images_are_passed_over_there_is_no_cut(tmp_path):
    config = write_round(tmp_path, selection={"k": 3, "most_alike": 0.9})
    assert "so there is no cut" in text_of(page_of(config))


def test_of_a_rule_by_which_little_is_informative_the_cut_is_from_above(tmp_path):
    config = write_round(tmp_path, selection={"k": 3, "by": "margin"})
    storage.delete_tree(f"{config.workspace}/scores")
    ids = [f"image-{i:04}" for i in range(30)]
    rows = score_rows(ids, [i / 30 for i in range(30)], [0] * 30, "margin")
    publish_table(f"{config.workspace}/scores/of-night-1", rows)
    assert "those whose margin is at most 0.067" in text_of(page_of(config))


def test_of_further_stages_the_last_is_shown(tmp_path):
    config = write_round(tmp_path)
    last = f"{config.workspace}/scores/last"
    ids = [f"image-{i:04}" for i in range(6)]
    publish_table(last, score_rows(ids, [0.9, 0.8, 0.7, 0.3, 0.2, 0.1], [2] * 6))
    done = read_stage(config.workspace, "night-1", RoundRecord)
    candidates = CandidatesResult(scores=last, ids="", stages=[])
    put(config.workspace, "night-1", done.model_copy(update={"candidates": candidates}))
    text = text_of(page_of(config))
    assert "3 of 6 scored images were acquired (50.0%): those whose bald is at least 0.7" in text
    assert "the candidates of the last stage" in text
    assert "1 · 0.600 right · 50%" in text
    assert "scored by this model 30" in text


@pytest.mark.parametrize("by", ["power_bald", "random"])
def test_a_rule_that_draws_has_no_cut(tmp_path, by):
    text = text_of(page_of(write_round(tmp_path, selection={"k": 3, "by": by})))
    assert "those whose" not in text


def test_a_round_whose_scores_were_pruned_still_has_its_page(tmp_path):
    config = write_round(tmp_path)
    storage.delete_tree(f"{config.workspace}/scores")
    text = text_of(page_of(config))
    assert "The scores of this round no longer exist" in text
    assert "1 · 0.600 image-0000" in text


def test_a_first_round_at_random_has_its_page(tmp_path):
    result = {"checkpoint": None, "metrics": {}, "stability": None, "rule": "random", "scored": 0}
    config = write_round(tmp_path, result=result)
    storage.delete_tree(f"{config.workspace}/scores")
    assert "because there were no labels yet to fit a model on" in text_of(page_of(config))


def test_a_round_that_has_not_ended_has_none(tmp_path):
    config = write_round(tmp_path)
    storage.delete(f"{config.workspace}/rounds/night-1/round.json")
    with pytest.raises(ConfigError, match="'night-1' is not finished"):
        write_round_report(config.workspace, "night-1")
    with pytest.raises(ConfigError, match="there is no round 'night-2'; there are night-1"):
        write_round_report(config.workspace, "night-2")


def test_a_report_made_by_itself_is_never_in_the_way(tmp_path, caplog):
    config = write_round(tmp_path)
    report_round(config.workspace, "night-1")
    assert storage.exists(report_uri(config.workspace, "night-1"))
    report_round(config.workspace, "night-2")
    assert "no report.html: ConfigError" in caplog.text


def test_without_the_extra_it_is_said_how_to_have_it(tmp_path, monkeypatch):
    config = write_round(tmp_path)
    monkeypatch.setattr(automatic_pages, "_NEEDED", ("there_is_no_such_module",))
    report_round(config.workspace, "night-1")
    assert not storage.exists(report_uri(config.workspace, "night-1"))
    with pytest.raises(Exception, match=r"install baal-ray\[report\]"):
        require_extra()
