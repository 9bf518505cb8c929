"""Experiments on a real cluster: killed, resumed, enlarged, shown."""

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from yaml import safe_dump

from baal_ray.cli import main
from baal_ray.errors import ConfigError, PlanMismatchError, ResourceError
from baal_ray.experiment import learning_curve as curve
from baal_ray.experiment.run import run_experiment
from pools import experiment_config

pytestmark = pytest.mark.usefixtures("ray_cluster")


def figures(table):
    columns = [name for name in curve.CURVE.names if not name.endswith("seconds")]
    return (
        table.select(columns).sort_by([("rule", "ascending"), ("seed", "ascending")]).to_pylist()
    )


class Interrupted(Exception):
    """Somebody presses Ctrl-C."""


def test_killed_and_enlarged_it_is_what_it_would_have_been(tmp_path):
    whole = run_experiment(experiment_config(tmp_path))
    assert len(whole) == 2 * 2 * 3

    def give_up(row):
        if row["round"] == 1:
            raise Interrupted

    again = {"folder": str(tmp_path / "again")}
    with pytest.raises(Interrupted):
        run_experiment(experiment_config(tmp_path, **again, seeds=1, rounds=1), watch=give_up)
    before = sorted((tmp_path / "again" / "curves").iterdir())
    assert before
    assert not (tmp_path / "again" / "curves.parquet").exists()
    run_experiment(experiment_config(tmp_path, **again, seeds=1, rounds=1))
    told = []
    resumed = run_experiment(experiment_config(tmp_path, **again), watch=told.append)
    assert figures(resumed) == figures(whole)
    assert len(told) == 12
    for name in ("curves.parquet", "labels_needed.parquet", "report.html"):
        assert (tmp_path / "again" / name).exists(), name
    assert figures(pq.read_table(tmp_path / "again" / "curves.parquet")) == figures(whole)


def test_one_curve_can_be_run_again_by_itself(tmp_path):
    whole = run_experiment(experiment_config(tmp_path, rules=["bald"], rounds=1))
    alone = run_experiment(
        experiment_config(tmp_path, rules=["bald"], rounds=1, folder=str(tmp_path / "alone")),
        rule="bald",
        seed=1,
    )
    assert figures(alone) == [row for row in figures(whole) if row["seed"] == 1]
    assert not (tmp_path / "alone" / "curves.parquet").exists()


def test_a_lost_process_changes_nothing(tmp_path):
    marker = tmp_path / "killed"
    settings = {"rules": ["bald"], "seeds": 1}
    settings["model"] = {
        "factory": "pools:Mortal",
        "arguments": {"marker": str(marker)},
        "image_size": 12,
    }
    found = run_experiment(experiment_config(tmp_path, **settings))
    assert marker.exists()
    whole = experiment_config(tmp_path, **settings, folder=str(tmp_path / "whole"))
    assert figures(found) == figures(run_experiment(whole))


def test_it_does_not_go_on_with_other_settings_or_images(tmp_path):
    settings = {"rules": ["random"], "seeds": 1, "rounds": 1}
    run_experiment(experiment_config(tmp_path, **settings))
    with pytest.raises(PlanMismatchError) as refused:
        run_experiment(experiment_config(tmp_path, **settings, k=6))
    assert refused.value.faults == ["k was 5 in the plan; it is 6 now"]
    table = pq.read_table(tmp_path / "labelled-0.parquet")
    config = experiment_config(tmp_path, **settings)
    pq.write_table(table.slice(1), tmp_path / "labelled-0.parquet")
    with pytest.raises(PlanMismatchError, match="images was"):
        run_experiment(config)


def test_what_cannot_be_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match="must be one of random, bald"):
        run_experiment(experiment_config(tmp_path), rule="epig")
    with pytest.raises(ConfigError, match=r"it must be in 0…1"):
        run_experiment(experiment_config(tmp_path), seed=2)
    with pytest.raises(ConfigError, match="has only 120 images"):
        run_experiment(experiment_config(tmp_path, rounds=30))
    with pytest.raises(ResourceError, match="a curve needs 1 GPUs, but the cluster has 0"):
        run_experiment(experiment_config(tmp_path, gpus=1.0))


def test_the_command_tells_what_came_out(tmp_path):
    config = experiment_config(tmp_path, seeds=1, rounds=1, accuracies=[0.2])
    path = tmp_path / "experiment.yaml"
    path.write_text(safe_dump(config.model_dump(mode="json")))
    result = CliRunner().invoke(main, ["experiment", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "labels needed" in result.output
    assert "bald shows no clear difference from random" in result.output
    page = (tmp_path / "experiment" / "report.html").read_text()
    assert "With one seed, this may be luck" in page
