import re
import traceback

import pytest

from baal_ray.config import RoundConfig
from baal_ray.errors import ConfigError
from pools import round_config

MINIMAL = """
workspace: /data/work
classes: [cat, dog]
pool: {uri: s3://bucket/pool}
selection: {k: 100}
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "round.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return RoundConfig.from_yaml(str(file))

    return read


@pytest.fixture
def faults(read):
    def faults(text):
        with pytest.raises(ConfigError) as caught:
            read(text)
        return caught.value.faults

    return faults


def test_four_settings_are_enough(read):
    config = read(MINIMAL)
    assert config.selection.by == "power_bald"
    assert config.model.image_size == [32, 32]


def test_every_fault_is_told_at_once_with_its_remedy(faults):
    found = faults(
        """
        workspace: work
        classes: [0, true, cat]
        pool: {uri: "", form: files}
        selection: {k: 0, by: entropy}
        model: {image_size: [32], std: [1, 1, 0]}
        training: {epochs: ten, min_steps: -1, held_out: 1, learning_rate: .inf}
        scoring: {precision: float64, stochastic_depth: 1}
        resources: 3
        seed: -1
        sed: 1
        """
    )
    told = "\n".join(found)
    for pattern in [
        r"workspace is 'work'; it must be absolute, because jobs run elsewhere; write /.*/work or",
        r"classes\.0 is 0; it must be a valid string; put it in quotes",
        r"classes\.1 is True; it must be a valid string; put it in quotes",
        r"pool\.uri is ''; it must be absolute",
        r"pool\.form is not a setting; did you mean format\?",
        r"selection\.k is 0; it must be greater than or equal to 1",
        r"selection\.by is 'entropy'; it must be 'bald', 'predictive_entropy'",
        r"model\.std\.2 is 0; it must be greater than 0",
        r"training\.epochs is 'ten'; it must be a valid integer",
        r"training\.held_out is 1; it must be less than 1",
        r"training\.min_steps is -1; it must be greater than or equal to 0",
        r"training\.learning_rate is inf; it must be a finite number",
        r"scoring\.precision is 'float64'; it must be 'float32', 'bfloat16' or 'float16'",
        r"scoring\.stochastic_depth is 1; it must be a valid boolean",
        r"resources is 3; it must be a valid dictionary",
        r"seed is -1; it must be greater than or equal to 0",
        r"sed is not a setting; did you mean seed\?",
    ]:
        assert re.search(rf"^{pattern}", told, re.MULTILINE), f"{pattern}\n{told}"
    assert len(found) == 17


def test_what_is_missing_is_named(faults):
    assert faults("seed: 1") == [
        f"{name} is missing; it has no default"
        for name in ("workspace", "classes", "pool", "selection")
    ]


def test_an_unknown_setting_without_a_near_one_lists_those_there_are(faults):
    (fault,) = faults(MINIMAL.replace("k: 100", "k: 100, zzz: 1"))
    known = "by, candidates, coldness, k, most_alike, random_share, target_images, targets"
    assert fault == f"selection.zzz is not a setting; the settings here are {known}"


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("image_size: [32, 32, 3]", "model.image_size has 3 numbers; it must have 2"),
        ("mean: [0.5]", "model.mean has 1 numbers; it must have 3"),
        ("std: [1, 1]", "model.std has 2 numbers; it must have 3"),
        ("image_size: true", "model.image_size.0 is True; it must be a valid integer"),
        ("mean: [.nan, 0, 0]", "model.mean.0 is nan; it must be a finite number"),
    ],
)
def test_an_impossible_model(faults, model, told):
    assert faults(f"{MINIMAL}model: {{{model}}}")[0] == told


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            "[{samples: 20, share: 0.1}]",
            "scoring.further_stages.0.samples is 20; it must be more than the previous stage's 20",
        ),
        (
            "[{samples: 30, share: 0.1}, {samples: 25, share: 0.05}]",
            "scoring.further_stages.1.samples is 25; it must be more than the previous stage's 30",
        ),
        (
            "[{samples: 30, share: 0.1}, {samples: 40, share: 0.1}]",
            "scoring.further_stages.1.share is 0.1; it must be less than the previous stage's 0.1",
        ),
        (
            "[{samples: 0, share: 0.1}]",
            "scoring.further_stages.0.samples is 0; it must be greater than",
        ),
        (
            "[{samples: 99, share: 1}]",
            "scoring.further_stages.0.share is 1; it must be less than 1",
        ),
        (
            "[{samples: 99, shares: 0.1, share: 0.1}]",
            "scoring.further_stages.0.shares is not a setting; did you mean share?",
        ),
        ("[{share: 0.1}]", "scoring.further_stages.0.samples is missing; it has no default"),
        ("{samples: 99}", "scoring.further_stages has keys samples; it must be a valid list"),
    ],
)
def test_impossible_further_stages(faults, stages, told):
    assert told in faults(f"{MINIMAL}scoring: {{further_stages: {stages}}}")[0]


@pytest.mark.parametrize("by", ["bald", "variation_ratio", "mean_std", "power_bald", "epig"])
def test_one_sample_cannot_disagree(faults, read, by):
    one = "scoring: {samples: 1}"
    (told,) = faults(f"{MINIMAL.replace('k: 100', f'k: 100, by: {by}')}{one}")
    assert told.startswith(
        f"scoring.samples is 1; it must be at least 2 when selection.by is {by}"
    )
    assert read(f"{MINIMAL.replace('k: 100', 'k: 100, by: margin')}{one}").scoring.samples == 1


@pytest.mark.parametrize(
    ("selection", "scoring", "told"),
    [
        (
            "candidates: 99",
            "{}",
            "selection.candidates is 99; it must be at least k, which is 100",
        ),
        ("coldness: 0", "{}", "selection.coldness is 0; it must be greater than 0"),
        ("random_share: 1", "{}", "selection.random_share is 1; it must be less than 1"),
        (
            "by: batch_bald",
            "{masks: per_item}",
            "scoring.masks is 'per_item'; it must be 'shared' when selection.by is batch_bald",
        ),
    ],
)
def test_rules_that_ask_for_what_there_is_not(faults, selection, scoring, told):
    text = MINIMAL.replace("k: 100", f"k: 100, {selection}")
    (fault,) = faults(f"{text}scoring: {scoring}")
    assert fault.startswith(told)


def test_a_single_pick_has_no_control(faults, read):
    settings = "k: 1, random_share: 0.1"
    (fault,) = faults(MINIMAL.replace("k: 100", settings))
    assert fault.startswith("selection.random_share is 0.1; it must be 0 when k is 1")


def test_a_gpu_decodes_where_one_scores(faults, read):
    text = f"{MINIMAL}scoring: {{decode_on: gpu}}\n"
    (fault,) = faults(text)
    assert fault.startswith("scoring.decode_on is gpu, but resources.scoring_gpus is 0")
    assert read(f"{text}resources: {{scoring_gpus: 0.5}}").scoring.decode_on == "gpu"


@pytest.mark.parametrize(
    ("k", "share", "count"),
    [(100, 0, 0), (100, 0.1, 10), (10, 0.01, 1), (10, 0.99, 9), (2, 0.01, 1), (2, 0.99, 1)],
)
def test_a_control_leaves_one_active_pick_and_has_one_image(read, k, share, count):
    settings = f"k: {k}, random_share: {share}"
    assert read(MINIMAL.replace("k: 100", settings)).selection.random_count == count
    random = read(MINIMAL.replace("k: 100", f"{settings}, by: random"))
    assert random.selection.random_count == 0


def test_a_further_stage_is_scored_as_a_pool_of_its_candidates_would_be(read):
    stages = "[{samples: 30, share: 0.4}, {samples: 50, share: 0.1}, {samples: 99, share: 0.02}]"
    scoring = read(f"{MINIMAL}scoring: {{masks: per_item, further_stages: {stages}}}").scoring
    first, second, third = map(scoring.at_stage, range(3))
    assert [stage.samples for stage in (first, second, third)] == [30, 50, 99]
    assert third == read(f"{MINIMAL}scoring: {{masks: per_item, samples: 99}}").scoring
    assert [stage.samples for stage in first.further_stages] == [50, 99]
    assert [stage.share for stage in first.further_stages] == pytest.approx([0.25, 0.05])
    assert [stage.share for stage in second.further_stages] == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ("[cat]", "at least 2 items"),
        ("[cat, dog, cat, dog]", "class names must be unique; these are repeated: cat, dog"),
        ("[cat, '']", "a class name must not be empty"),
        ("[yes, no]", "put it in quotes"),
        ("cat", "it must be a valid list"),
    ],
)
def test_impossible_classes(faults, classes, told):
    assert told in faults(MINIMAL.replace("[cat, dog]", classes))[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds a NoneType; it must map settings to values"),
        ("- a\n- b", "holds a list"),
        ("a: [1, 2", "not YAML"),
        ("a: \tb: c", "not YAML"),
        (b"a: \xff\xfe", "not YAML"),
        ("day: 2026-02-30", "not YAML: day is out of range"),
        ("[" * 5000, "not YAML"),
        ("!!python/object/apply:os.system ['touch canary']", "not YAML"),
        (f"{MINIMAL}seed: 1\nseed: 2", "seed is given twice"),
        (MINIMAL.replace("k: 100", "k: 100, k: 10"), "k is given twice"),
    ],
)
def test_a_file_that_is_no_configuration(faults, text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert told in faults(text)[0]
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "path", ["/nowhere/round.yaml", "/", "nothing://round.yaml", "memory://nowhere.yaml"]
)
def test_a_file_that_cannot_be_read(path):
    with pytest.raises(ConfigError, match="cannot be"):
        RoundConfig.from_yaml(path)


def test_numbers_mean_what_everybody_means(read):
    config = read(f"{MINIMAL}training: {{learning_rate: 1e-3, weight_decay: 5E-4}}")
    assert (config.training.learning_rate, config.training.weight_decay) == (1e-3, 5e-4)
    assert read(f"{MINIMAL}training: {{weight_decay: 0}}").training.weight_decay == 0
    assert read(f"{MINIMAL}classes: ['1e3', '010']".replace("classes: [cat, dog]\n", "")).classes


def test_windows_editors_are_welcome(read):
    assert read(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode()) == read(MINIMAL)


def test_one_image_size_means_a_square(read):
    assert read(f"{MINIMAL}model: {{image_size: 224}}").model.image_size == [224, 224]


@pytest.mark.parametrize(
    "workspace", ["s3://bucket/pool/work", "s3://bucket/pool", "s3://bucket/pool/"]
)
def test_a_workspace_inside_the_pool_would_feed_on_itself(faults, workspace):
    assert "inside the pool" in faults(MINIMAL.replace("/data/work", workspace))[0]


def test_a_workspace_beside_the_pool_is_fine(read):
    assert read(MINIMAL.replace("/data/work", "s3://bucket/pool-work"))


@pytest.mark.parametrize(
    ("workspace", "told"),
    [
        *(
            (f"s3://bucket/{part}/work", "must not contain % # ?")
            for part in ("a%20b", "a#1", "a*", "a[1]")
        ),
        *((f"s3://bucket/{part}/work", "'.', '..' or empty") for part in ("", ".", "..")),
        ("s3://bucket/a?b", "must not contain % # ?"),
        ("file:///data/a#1", "must not contain % # ?"),
        ("file://work", "file:///folder"),
        ("s3://", "it must name a bucket: s3://bucket/folder"),
        ("s3:///work", "it must name a bucket"),
        ("/data/a%20b", "it must not contain %"),
    ],
)
def test_a_workspace_is_where_all_libraries_take_it_to_be(faults, workspace, told):
    (fault,) = faults(MINIMAL.replace("/data/work", f"'{workspace}'"))
    assert fault.startswith("workspace is '")
    assert told in fault


@pytest.mark.parametrize("workspace", ["/data/a [1]*?#", "file:///data/é b/", "s3://bucket/"])
def test_a_workspace_that_they_take_alike_is_fine(read, workspace):
    assert read(MINIMAL.replace("/data/work", f"'{workspace}'")).workspace == workspace


def test_a_pool_in_a_bucket_may_be_called_anything(read):
    uri = "s3://bucket/a[1]*%20//.#b"
    assert read(MINIMAL.replace("s3://bucket/pool", f"'{uri}'")).pool.uri == uri


def test_home_is_spelled_out(faults, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert "write /home/ann/work or" in faults(MINIMAL.replace("/data/work", "~/work"))[0]


def test_a_plan_fixes_what_changes_the_result_only(read):
    one = read(f"{MINIMAL}resources: {{scoring_actors: 1}}")
    two = read(
        f"{MINIMAL}resources: {{scoring_actors: 9}}\n"
        "training: {max_failures: 0}\nscoring: {max_unreadable: 1}"
    )
    assert one.planned() == two.planned()
    assert one.planned() != read(f"{MINIMAL}scoring: {{samples: 21}}").planned()
    assert RoundConfig.from_dict(one.planned()).planned() == one.planned()


def test_a_configuration_is_not_changed_once_read(read):
    with pytest.raises(ValueError, match="frozen"):
        read(MINIMAL).seed = 3


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("workspace", MINIMAL.replace("/data/work", "s3://ann:c4n4ry@bucket/work")),
        ("pool.uri", MINIMAL.replace("s3://bucket/pool", "'https://h/?X-Amz-Signature=c4n4ry'")),
        ("pool.uri", MINIMAL.replace("s3://bucket/pool", "'h.blob.core.windows.net?sig=c4n4ry'")),
        ("pool.roots.1", MINIMAL.replace("pool}", "pool, roots: [/a, 'https://c4n4ry@h/']}")),
        ("training.evaluation_set", f"{MINIMAL}training: {{evaluation_set: '/e?token=c4n4ry'}}"),
        ("model.weights", f"{MINIMAL}model: {{weights: 'https://h/w.pt?sig=c4n4ry'}}"),
    ],
)
def test_a_location_with_a_secret_is_refused_without_repeating_it(read, setting, text):
    with pytest.raises(ConfigError) as caught:
        read(text)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{setting} carries credentials")
    assert "put them in the environment" in fault
    assert "c4n4ry" not in "".join(traceback.format_exception(caught.value))


def test_no_other_fault_repeats_a_secret(faults):
    uri = "s3://ann:c4n4ry@bucket/pool?sig=c4n4ry"
    for text in (
        MINIMAL.replace("{uri: s3://bucket/pool}", uri),
        MINIMAL.replace("{k: 100}", f"[{uri}]"),
        MINIMAL.replace("s3://bucket/pool", f"{{a: '{uri}'}}"),
        MINIMAL.replace("s3://bucket/pool", uri),
        f"{MINIMAL}seed: {uri}: 1",
    ):
        told = faults(text)
        assert told
        assert "c4n4ry" not in "".join(told)
    with pytest.raises(ConfigError) as caught:
        RoundConfig.from_yaml("http://ann:c4n4ry@127.0.0.1:9/round.yaml?sig=c4n4ry")
    assert "c4n4ry" not in str(caught.value)


def test_further_roots_of_a_pool_are_absolute(read, faults):
    roots = MINIMAL.replace("pool}", "pool, roots: [s3://other/photos, ROOT]}")
    assert read(roots.replace("ROOT", "/data")).pool.roots == ["s3://other/photos", "/data"]
    assert (
        "pool.roots.1 is 'photos'; it must be absolute"
        in faults(roots.replace("ROOT", "photos"))[0]
    )


def test_a_bomb_of_aliases_is_told_shortly(faults):
    bomb = "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))
    text = MINIMAL.replace("classes:", "classes: *x11\nold:")
    told = faults(f"x0: &x0 [lol]\n{bomb}{text}")
    assert any(fault.startswith("classes.0 is [") for fault in told)
    assert all(len(fault) < 1000 for fault in told)


@pytest.mark.parametrize("notify", ["{url: hooks.example.com/s3cret}", "{command: post s3cret}"])
def test_what_is_wrong_with_a_notification_does_not_tell_its_secret(faults, notify):
    (fault,) = faults(f"{MINIMAL}notify: {notify}")
    assert fault.startswith("notify.")
    assert "s3cret" not in fault


@pytest.mark.parametrize("by", ["batch_bald", "random"])
def test_only_a_ranking_can_be_spread(faults, by):
    (fault,) = faults(MINIMAL.replace("k: 100", f"k: 100, by: {by}, most_alike: 0.9"))
    assert fault.startswith(f"selection.most_alike is 0.9; it must be null when by is {by}")


def test_without_epochs_there_must_be_a_trained_model(read):
    without = MINIMAL + "training: {epochs: 0}\n"
    assert read(without + "model: {weights: /data/model.safetensors}\n").training.epochs == 0
    with pytest.raises(ConfigError, match=r"training\.epochs is 0, but model\.weights is not set"):
        read(without)


@pytest.mark.parametrize("spelling", ["{}//ws", "{}/./ws", "{}/x/../ws", "{}/ws/"])
def test_a_local_workspace_has_one_spelling(tmp_path, spelling):
    # Otherwise its files, as they are listed, would not be those that a round names.
    workspace = spelling.format(tmp_path)
    config = round_config(tmp_path, workspace=workspace)
    assert config.workspace == f"{tmp_path}/ws"
