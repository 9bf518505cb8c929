from pathlib import Path

import pytest

from baal_ray.errors import ConfigError
from baal_ray.experiment.config import ExperimentConfig
from pools import experiment_config

JOBS = Path(__file__).parents[2] / "jobs"
EXAMPLE = ExperimentConfig.from_yaml(str(JOBS / "experiment.yaml"))


def test_experiment_yaml_shows_every_setting_at_its_default():
    assert EXAMPLE.model_fields_set == set(ExperimentConfig.model_fields)
    required = {"folder", "classes", "labelled", "training"}
    bare = EXAMPLE.model_dump(include=required) | {"rules": ["random", "bald", "power_bald"]}
    assert ExperimentConfig.from_dict(bare) == EXAMPLE


def test_rules_are_named_or_have_settings(tmp_path):
    config = experiment_config(tmp_path, rules=["bald", {"by": "power_bald", "coldness": 4.0}])
    assert [rule.name for rule in config.rules] == ["bald", "power_bald-4"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"rules": ["bold"]}, "rules.0.by is 'bold'; it must be 'bald'"),
        ({"rules": ["bald", "bald"]}, "rules names bald twice; name each rule once"),
        ({"rules": []}, "rules is []"),
        ({"accuracies": [90]}, "accuracies.0 is 90"),
        ({"training": {"evaluation_set": "/data/e", "epochs": 0}}, "training.epochs is 0; in an"),
        ({"training": {}}, "training.evaluation_set is not set; it is required"),
        ({"rules": ["epig"], "scoring": {"masks": "per_item"}}, "scoring.masks is 'per_item'"),
        ({"scoring": {"batch_size": None}}, "scoring.batch_size is null; in an experiment"),
        (
            {"scoring": {"decode_on": "gpu"}},
            "scoring.decode_on is gpu; in an experiment it must be cpu",
        ),
        ({"rules": ["epig"], "candidates": 4}, "candidates is 4; it must be at least"),
        (
            {"rules": [{"by": "batch_bald", "most_alike": 0.9}]},
            "rules.0.most_alike is 0.9; it must be null when by is batch_bald",
        ),
        (
            {"scoring": {"samples": 1}},
            "scoring.samples is 1; it must be at least 2 when rules.1.by is bald",
        ),
        ({"classes": ["left", "left"]}, "classes is ['left', 'left']; class names must be unique"),
        ({"rule": ["bald"]}, "rule is not a setting; did you mean rules?"),
    ],
)
def test_faults_are_told(tmp_path, settings, fault):
    with pytest.raises(ConfigError, match="configuration") as told:
        experiment_config(tmp_path, **settings)
    assert any(each.startswith(fault) for each in told.value.faults), told.value.faults


def test_what_may_change_while_an_experiment_goes_on(tmp_path):
    begun = experiment_config(tmp_path)
    more = experiment_config(
        tmp_path, rules=["bald", "epig"], seeds=9, rounds=7, accuracies=[0.5], cpus=4.0
    )
    assert begun.of_a_curve() == more.of_a_curve()
    assert begun.of_a_curve() != experiment_config(tmp_path, k=6).of_a_curve()
    # Those that were begun before there was a choice do not have it.
    assert "decode_on" not in begun.of_a_curve()["scoring"]


def test_a_page_shows_settings_but_not_where_things_are(tmp_path):
    shown = experiment_config(tmp_path).shown()
    assert (shown["k"], shown["training.epochs"], shown["model.image_size"]) == (5, 3, [12, 12])
    assert str(tmp_path) not in str(shown)
