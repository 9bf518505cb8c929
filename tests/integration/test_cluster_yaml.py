"""Tests of cluster.yaml without AWS: Ray's own checks, then `ray up` against moto's EC2."""

import re
import shlex
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import botocore.session
import pytest
import yaml
from moto import mock_aws

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
NODE_TYPES = CLUSTER["available_node_types"]
WORKERS = sorted(NODE_TYPES.keys() - {CLUSTER["head_node_type"]})
RUN_INSTANCES = (
    botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
)


@pytest.fixture(scope="module")
def ec2(tmp_path_factory):
    """Yield the configuration that `ray up` makes of cluster.yaml, and its node provider."""
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.commands import _bootstrap_config

    with (
        pytest.MonkeyPatch.context() as patch,
        mock_aws(config={"iam": {"load_aws_managed_policies": True}}),
    ):
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # gets the SSH key
        # Ray waits half a minute for AWS to spread a new role.
        patch.setattr(aws, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
        config = _bootstrap_config(
            yaml.safe_load((ROOT / "cluster.yaml").read_text()), no_config_cache=True
        )
        yield config, AWSNodeProvider(config["provider"], config["cluster_name"])


def unknown_values(shape, value, where="node_config"):
    """Yield the values that EC2 does not list. botocore checks names and types, but no values."""
    match shape.type_name:
        case "structure":
            for name in value.keys() & shape.members.keys():
                yield from unknown_values(shape.members[name], value[name], f"{where}.{name}")
        case "list":
            for index, item in enumerate(value):
                yield from unknown_values(shape.member, item, f"{where}[{index}]")
        case "string" if shape.enum and value not in shape.enum:
            yield f"{where}: {value}"


def ray_start_options(command: str) -> dict:
    """Parse a `ray start` line with Ray's own parser, which refuses unknown options."""
    from ray.scripts.scripts import start

    assert command.startswith("ray start ")
    return start.make_context("ray start", shlex.split(command)[2:]).params


def test_ray_accepts_the_file():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text())))


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_knows_every_value_of_a_node(name):
    assert not list(unknown_values(RUN_INSTANCES, NODE_TYPES[name]["node_config"]))


@pytest.mark.parametrize("name", NODE_TYPES)
def test_ec2_starts_a_node(ec2, name):
    # boto3 refuses parameters that RunInstances does not have, and values of a wrong type.
    config, provider = ec2
    node_config = config["available_node_types"][name]["node_config"]
    (instance,) = provider.create_node(node_config, {}, 1).values()
    assert instance.instance_type == NODE_TYPES[name]["node_config"]["InstanceType"]


def test_the_head_runs_no_work():
    assert NODE_TYPES[CLUSTER["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


@pytest.mark.parametrize("name", WORKERS)
def test_workers_have_a_gpu_are_spot_and_go_when_idle(ec2, name):
    config, _ = ec2
    worker = config["available_node_types"][name]
    assert worker["resources"]["GPU"] >= 1  # as Ray looked it up by instance type
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert worker["min_workers"] == 0
    assert config["idle_timeout_minutes"] > 0


def test_the_image_has_the_locked_ray_and_a_supported_python():
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = re.fullmatch(r"rayproject/ray:(.+)-py(\d)(\d+)-gpu", CLUSTER["docker"]["image"])
    assert image is not None
    ray, major, minor = image.groups()
    assert f"\nray=={ray}\n" in lock
    assert project["requires-python"] == f">={major}.{minor}"


def test_the_cluster_asks_for_a_token_and_gets_one():
    assert "-e RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_setup_installs_extras_that_exist_and_pins_from_the_lock():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    install = CLUSTER["setup_commands"][0]
    extras = re.search(r"\[([a-z0-9,]+)\]", install).group(1).split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    assert "-c ~/baal_ray/requirements.lock" in install
    assert CLUSTER["file_mounts"]["~/baal_ray"] == "dist"


def test_the_dashboard_listens_on_the_head_alone():
    options = ray_start_options(CLUSTER["head_start_ray_commands"][-1])
    assert options["head"]
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["autoscaling_config"] == "~/ray_bootstrap_config.yaml"


def test_workers_join_the_head():
    head = ray_start_options(CLUSTER["head_start_ray_commands"][-1])
    worker = ray_start_options(CLUSTER["worker_start_ray_commands"][-1])
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
