"""Tests of jobs/raycronjob.yaml without Kubernetes, with its client's models and Ray's options."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from kubernetes.client import ApiClient

from baal_ray.cli import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "jobs" / "raycronjob.yaml").read_text()
CRON_JOB = yaml.safe_load(PAGE)
JOB = CRON_JOB["spec"]["jobTemplate"]
CLUSTER = JOB["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]

# Fields of KubeRay 1.6 (ray-operator/apis/ray/v1) that the file may use.
FIELDS = {
    "cron job": {"schedule", "timeZone", "suspend", "jobTemplate"},
    "job": {
        "entrypoint",
        "backoffLimit",
        "activeDeadlineSeconds",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "cluster": {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "group": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}


def test_kuberay_knows_every_field():
    assert (CRON_JOB["apiVersion"], CRON_JOB["kind"]) == ("ray.io/v1", "RayCronJob")
    assert CRON_JOB["spec"].keys() <= FIELDS["cron job"]
    assert JOB.keys() <= FIELDS["job"]
    assert CLUSTER.keys() <= FIELDS["cluster"]
    for group in GROUPS:
        assert group.keys() <= FIELDS["group"]


@pytest.mark.parametrize("group", GROUPS, ids=["head", "worker"])
def test_kubernetes_knows_every_field_of_a_pod(group):
    # Its models drop fields that they do not know, and refuse to lack those that they need.
    client = ApiClient()
    pod = client.deserialize(json.dumps(group["template"]), "V1PodTemplateSpec", None)
    assert client.sanitize_for_serialization(pod) == group["template"]


@pytest.mark.parametrize("group", GROUPS, ids=["head", "worker"])
def test_a_pod_mounts_what_it_has(group):
    pod = group["template"]["spec"]
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def test_the_image_is_named_where_it_says():
    images = {c["image"] for g in GROUPS for c in g["template"]["spec"]["containers"]}
    assert len(images) == 1
    assert PAGE.count(images.pop()) == 2  # "in the two places below"


def test_the_entrypoint_is_a_command_of_ours():
    command, *arguments = shlex.split(JOB["entrypoint"].replace("$(date -u +%F)", "2026-11-22"))
    assert command == "baal-ray"
    name, *rest = arguments
    context = main.commands[name].make_context(name, rest)
    assert context.params["round_id"] == "2026-11-22"
    mount = GROUPS[0]["template"]["spec"]["containers"][0]["volumeMounts"][0]["mountPath"]
    assert str(context.params["config_path"]).startswith(mount)


def test_it_runs_the_locked_ray():
    lock = (ROOT / "requirements.lock").read_text()
    assert f"\nray=={CLUSTER['rayVersion']}\n" in lock
    assert f"FROM rayproject/ray:{CLUSTER['rayVersion']}-py311-gpu" in PAGE
    extras = re.search(r"\)\[([a-z0-9,]+)\]", PAGE).group(1).split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()


def test_the_head_runs_no_work_and_workers_come_and_go():
    head, worker = GROUPS
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert CLUSTER["enableInTreeAutoscaling"]
    assert worker["minReplicas"] == 0 < worker["maxReplicas"]
    limits = worker["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) >= 1
