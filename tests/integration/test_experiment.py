"""Tests of experiments on a real cluster: killed, resumed, extended and shown."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from yaml import safe_dump

from baal_ray.cli import main
from baal_ray.errors import ConfigError, PlanMismatchError, ResourceError
from baal_ray.experiment import learning_curve as curve
from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.run import run_experiment
from pools import experiment_config

pytestmark = pytest.mark.usefixtures("ray_cluster")


def figures(table):
    columns = [name for name in curve.CURVE.names if not name.endswith("seconds")]
    return (
        table.select(columns).sort_by([("rule", "ascending"), ("seed", "ascending")]).to_pylist()
    )


class Interrupted(Exception):
    """A stand-in for Ctrl-C."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, ray_cluster):
    """An experiment of two rules, two seeds and three points, run without a break."""
    folder = tmp_path_factory.mktemp("whole")
    config = experiment_config(folder, accuracies=[0.2])
    return config, run_experiment(config)


def again(config, folder, **changes):
    """Return the experiment of a configuration in another folder."""
    return ExperimentConfig.from_dict(
        {**config.model_dump(mode="json"), "folder": str(folder), **changes}
    )


def test_killed_and_enlarged_it_is_what_it_would_have_been(whole, tmp_path):
    config, expected = whole
    assert len(expected) == 2 * 2 * 3

    def give_up(row):
        if row["round"] == 1:
            raise Interrupted

    small = again(config, tmp_path, seeds=1, rounds=1)
    with pytest.raises(Interrupted):
        run_experiment(small, watch=give_up)
    assert list((tmp_path / "curves").iterdir())
    assert not (tmp_path / "curves.parquet").exists()
    told = []
    resumed = run_experiment(again(config, tmp_path), watch=told.append)
    assert figures(resumed) == figures(expected)
    assert len(told) == 12
    for name in ("curves.parquet", "labels_needed.parquet", "report.html"):
        assert (tmp_path / name).exists(), name
    assert figures(pq.read_table(tmp_path / "curves.parquet")) == figures(expected)


def test_one_curve_can_be_run_again_by_itself(whole, tmp_path):
    config, expected = whole
    alone = run_experiment(again(config, tmp_path), rule="bald", seed=1)
    of_this_curve = [row for row in figures(expected) if (row["rule"], row["seed"]) == ("bald", 1)]
    assert figures(alone) == of_this_curve
    assert not (tmp_path / "curves.parquet").exists()


def test_a_lost_process_changes_nothing(tmp_path):
    marker = tmp_path / "killed"
    arguments = {"marker": str(marker)}
    model = {"factory": "pools:Mortal", "arguments": arguments, "image_size": 12}
    config = experiment_config(tmp_path, rules=["bald"], model=model)
    found = run_experiment(config, seed=0)
    assert marker.exists()
    undisturbed = run_experiment(again(config, tmp_path / "undisturbed"), seed=0)
    assert figures(found) == figures(undisturbed)


def test_it_does_not_go_on_with_other_settings_or_images(whole, tmp_path):
    config, _ = whole
    folder = config.folder
    with pytest.raises(PlanMismatchError) as refused:
        run_experiment(again(config, folder, k=6))
    assert refused.value.faults == ["k was 5 in the plan; it is 6 now"]
    fewer = tmp_path / "fewer.parquet"
    pq.write_table(pq.read_table(config.labelled).slice(1), fewer)
    with pytest.raises(PlanMismatchError, match="images was"):
        run_experiment(again(config, folder, labelled=str(fewer)))


def test_what_cannot_be_is_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match="must be one of random, bald"):
        run_experiment(experiment_config(tmp_path), rule="epig")
    with pytest.raises(ConfigError, match=r"it must be in 0…1"):
        run_experiment(experiment_config(tmp_path), seed=2)
    with pytest.raises(ConfigError, match="has only 120 images"):
        run_experiment(experiment_config(tmp_path, rounds=30))
    with pytest.raises(ResourceError, match="a curve needs 1 GPUs, but the cluster has 0"):
        run_experiment(experiment_config(tmp_path, gpus=1.0))


def test_the_command_tells_what_came_out(whole, tmp_path):
    """Two seeds are on disk already, so the command only shows them."""
    config, _ = whole
    path = tmp_path / "experiment.yaml"
    path.write_text(safe_dump(config.model_dump(mode="json")))
    result = CliRunner().invoke(main, ["experiment", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "labels needed" in result.output
    assert "bald cannot be compared with random picks. Averaged over" in result.output
    assert "seed" in Path(config.folder, "report.html").read_text()
