"""Tests of checkpoints from strangers. tests/test_model.py has those of one's own."""

import inspect
import json
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import baal_ray
from baal_ray import storage
from baal_ray.checkpoint import DESCRIPTION, WEIGHTS, Description, load_checkpoint
from baal_ray.config import ModelConfig
from baal_ray.errors import CheckpointError
from baal_ray.model import build_classifier, check_model, small_convnet
from baal_ray.scoring.job import ScoringJob
from baal_ray.scoring.scorer import PoolScorer

CANARY = """
import os
from pathlib import Path

def touch(*args, **arguments):
    Path(os.environ["CANARY"]).touch()
    return None

def __getattr__(name):
    return touch

touch()
"""


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Return a file that exists as soon as a module of the stranger's is imported or called."""
    for name in ("strangers_models", "timm", "transformers"):
        (tmp_path / f"{name}.py").write_text(CANARY)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "hubconf.py").write_text(CANARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))

    def download(*_, **__):
        touched.touch()
        raise OSError("no downloads in tests")

    # The one door to torchvision's and torch.hub's downloads.
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    touched = tmp_path / "canary"
    yield touched
    for name in ("strangers_models", "timm", "transformers"):
        sys.modules.pop(name, None)


def published(folder: Path, model: dict, weights=None) -> str:
    """Write a checkpoint with any header, under its right name, and return its URI."""
    header = {"model": ModelConfig().model_dump(mode="json") | model, "classes": ["a", "b"]}
    tensors = weights or small_convnet(2).state_dict()
    data = safetensors.torch.save(tensors, metadata={"baal_ray": json.dumps(header)})
    target = folder / storage.sha256(data)
    target.mkdir()
    (target / WEIGHTS).write_bytes(data)
    description = Description(model=ModelConfig(), classes=["a", "b"], sha256=target.name)
    (target / DESCRIPTION).write_bytes(description.to_json())
    return str(target)


def hostile(folder: Path) -> list[dict]:
    """Return settings of a model that run code, download or delete if they are followed."""
    touch = f"touch {folder}/canary"
    local = {"repo_or_dir": str(folder), "model": "touch", "source": "local"}
    kept = {"uri": str(folder / "kept")}
    return [
        {"factory": "torch.hub:load", "arguments": local | {"trust_repo": True}},
        {"factory": "builtins:exec", "arguments": {"source": f"import os; os.system('{touch}')"}},
        {"factory": "os:system", "arguments": {"command": touch}},
        {"factory": "strangers_models:model", "arguments": {}},
        {"factory": "timm:create_model", "arguments": {"model_name": "hf-hub:evil/model"}},
        {"factory": "timm:create_model", "arguments": {"model_name": "a", "pretrained": True}},
        {
            "factory": "transformers:AutoModel.from_pretrained",
            "arguments": {"name": "evil/model", "trust_remote_code": True},
        },
        {
            "factory": "torchvision.models:get_model",
            "arguments": {"name": "vgg11", "weights": "DEFAULT"},
        },
        {"factory": "torchvision.models:vgg11", "arguments": {"weights": "DEFAULT"}},
        {"factory": "vgg11", "arguments": {"weights": "DEFAULT"}},
        {"factory": "vgg11", "arguments": {"weights": "IMAGENET1K_V1"}},
        {"factory": "vgg11", "arguments": {"pretrained": True}},
        {"factory": "vgg11", "arguments": {"weights": ["https://strangers.example/w.pth"]}},
        {"factory": "vgg11", "arguments": {"init_weights": {"url": "https://s.example"}}},
        # What lies in our package is no factory for that.
        {"factory": "baal_ray.storage.files:delete_tree", "arguments": kept},
        {"factory": "baal_ray.model:small_convnet", "arguments": {}},
    ]


HOSTILE = len(hostile(Path()))


@pytest.mark.parametrize("number", range(HOSTILE))
@pytest.mark.parametrize("named", [None, ModelConfig(), ModelConfig(factory="vgg11")])
def test_a_strangers_header_runs_nothing_and_downloads_nothing(tmp_path, canary, number, named):
    uri = published(tmp_path, hostile(tmp_path)[number])
    with pytest.raises(CheckpointError, match=r"is built by '.*' with the arguments"):
        load_checkpoint(uri, model=named)
    assert not canary.exists()


@pytest.mark.parametrize(
    "arguments", [{"model_name": "hf-hub:evil/model"}, {"model_name": "mine", "pretrained": True}]
)
def test_the_factory_that_is_named_is_not_run_with_a_strangers_arguments(
    tmp_path, canary, arguments
):
    uri = published(tmp_path, {"factory": "timm:create_model", "arguments": arguments})
    mine = ModelConfig(factory="timm:create_model", arguments={"model_name": "mine"})
    with pytest.raises(CheckpointError, match="code that it may not choose"):
        load_checkpoint(uri, model=mine)
    assert not canary.exists()


def test_weights_of_a_round_are_tensors_alone_whatever_their_header_says(tmp_path, canary):
    for number, model in enumerate(hostile(tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        weights = f"{published(folder, model)}/{WEIGHTS}"
        check_model(ModelConfig(weights=weights), 2, trained=True)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"arguments": {"dropout": 0.25}}, None),
        ({"factory": "mobilenet_v3_small", "arguments": {"weights": None, "dropout": 0.3}}, None),
        ({"factory": "mobilenet_v3_small", "arguments": {"width_mult": 0.5}}, ModelConfig()),
        (
            {"factory": "baal_ray.model:small_convnet", "arguments": {"dropout": 0.1}},
            ModelConfig(factory="baal_ray.model:small_convnet", arguments={"dropout": 0.1}),
        ),
    ],
)
def test_built_in_factories_and_the_one_that_is_named_are_run(tmp_path, model, named):
    fitted = build_classifier(ModelConfig().model_copy(update=model), 2)
    uri = published(tmp_path, model, fitted.network.state_dict())
    found = load_checkpoint(uri, model=named)
    assert (found.config.factory, found.config.arguments) == (
        model.get("factory", "small_convnet"),
        model["arguments"],
    )


def test_a_header_of_a_hundred_thousand_brackets_is_refused(tmp_path):
    weights = small_convnet(2).state_dict()
    data = safetensors.torch.save(weights, metadata={"baal_ray": "[" * 100_000})
    target = tmp_path / storage.sha256(data)
    target.mkdir()
    (target / WEIGHTS).write_bytes(data)
    description = Description(model=ModelConfig(), classes=["a", "b"], sha256=target.name)
    (target / DESCRIPTION).write_bytes(description.to_json())
    with pytest.raises(CheckpointError, match=target.name):
        load_checkpoint(str(target))


@pytest.mark.parametrize("number", range(HOSTILE))
def test_a_scoring_actor_refuses_it_too(tmp_path, canary, number):
    job = ScoringJob(published(tmp_path, hostile(tmp_path)[number]), model=ModelConfig())
    with pytest.raises(CheckpointError, match=r"is built by '.*' with the arguments"):
        PoolScorer(job)
    assert not canary.exists()


def test_a_checkpoint_is_loaded_in_one_place():
    # Whatever else scores must come through there, with the configured model.
    package = Path(inspect.getfile(baal_ray)).parent
    calls = [
        (str(path.relative_to(package)), line.strip())
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if "load_checkpoint(" in line and "def " not in line
    ]
    assert calls == [
        ("scoring/actor.py", "loaded = load_checkpoint(job.checkpoint, model=job.model)")
    ]
