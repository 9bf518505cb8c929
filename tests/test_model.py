import json
import logging
import os
import pickle
import sys
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from baal_ray import storage
from baal_ray.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    Description,
    FitSummary,
    describe,
    load_checkpoint,
    read_architecture,
    save_checkpoint,
)
from baal_ray.config import ModelConfig
from baal_ray.errors import (
    CheckpointError,
    LostCheckpointError,
    ModelError,
    PosteriorError,
    StorageError,
)
from baal_ray.model import build_classifier, check_model, small_convnet
from baal_ray.workspace import checkpoint_uri

CLASSES = ["cat", "dog", "é"]

FACTORIES = """
import torch
from torch import nn

COUNT = 3

def flat(num_classes, width=8, dropout=0.5):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 16 * 16, width), nn.Dropout(dropout),
        nn.Linear(width, num_classes),
    )

def ten_classes(num_classes):
    return flat(10)

def nothing(num_classes):
    return None

def no_arguments():
    return flat(3)

def key_error(num_classes):
    return {}["weights"]

class Tied(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = flat(num_classes).to(memory_format=torch.channels_last)
        self.conv = nn.Conv2d(3, 3, 3, padding=1).to(memory_format=torch.channels_last)
        self.same = self.conv

    def forward(self, images):
        return self.body(self.same(self.conv(images)))

class TwoHeads(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = flat(num_classes)

    def forward(self, images):
        out = self.body(images)
        return (out, out) if self.training else out

class Fields(nn.Module):
    def __init__(self, num_classes, name):
        super().__init__()
        self.body, self.name = flat(num_classes), name

    def forward(self, images):
        out = self.body(images)
        return (images, out) if self.name == "tuple" else {"images": images, self.name: out}

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.LazyLinear(num_classes))

class Crashes(nn.Module):
    def __init__(self, num_classes):
        super().__init__()

    def forward(self, images):
        raise KeyError("no such layer")
"""


@pytest.fixture(scope="module", autouse=True)
def factories(tmp_path_factory):
    """Put modules of users' factories on the path, one of which is broken."""
    folder = tmp_path_factory.mktemp("factories")
    (folder / "our_models.py").write_text(FACTORIES)
    (folder / "broken_models.py").write_text("def model(num_classes:\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield
    for name in ("our_models", "broken_models"):
        sys.modules.pop(name, None)


def model(factory="our_models:flat", **settings):
    return ModelConfig(factory=factory, image_size=[16, 16], **settings)


def images(count=4, size=16):
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=noise)


@pytest.mark.parametrize(
    "config",
    [
        model(),
        model(arguments={"width": 5, "dropout": 0.1}),
        model("our_models:Tied"),
        model("small_convnet", arguments={"dropout": 0.2}),
        model("mobilenet_v3_small", arguments={"dropout": 0.3}),
    ],
    ids=lambda config: config.factory,
)
def test_each_kind_of_factory_is_built_and_passes_the_check(config):
    classifier = build_classifier(config, 3).eval()
    assert classifier(images()).shape == (4, 3)
    check_model(config, 3)


def test_pixels_are_scaled_and_normalised_before_the_network():
    classifier = build_classifier(model(mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 2.0]), 3)
    classifier.network = nn.Identity()
    seen = classifier(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert seen[0, :, 0, 0].tolist() == [1.0, 3.0, 0.5]
    assert seen.dtype == torch.float32


def test_normalisation_is_no_weight():
    # Otherwise a checkpoint of the network would not load into it, nor into torchvision's.
    classifier = build_classifier(model(), 3)
    assert classifier.state_dict().keys() == {
        f"network.{name}" for name in classifier.network.state_dict()
    }


def test_small_convnet_takes_small_pictures_of_any_size():
    network = small_convnet(3).eval()
    assert {network(torch.rand(2, 3, size, size)).shape for size in (8, 9, 28, 33)} == {(2, 3)}
    # 32·27+32 + 64·288+64 + 128·1024+128 + 3·128+3
    assert sum(weight.numel() for weight in network.parameters()) == 150_979


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (
            "vgg61",
            r"must be small_convnet, a torchvision classifier \(vgg19, vgg16, vgg13, …\) or",
        ),
        ("qqqqqqqq", r"a torchvision classifier \(vgg16, mobilenet_v3_large, densenet121, …\)"),
        ("fasterrcnn_resnet50_fpn", "a torchvision classifier"),
        ("nowhere:model", "No module named 'nowhere'.* on the Python path of every node"),
        ("our_models:missing", "cannot be imported: AttributeError"),
        ("broken_models:model", "cannot be imported: SyntaxError"),
        (":model", "cannot be imported"),
        ("our_models:", "cannot be imported"),
        ("our_models:COUNT", "cannot be built .*not callable"),
        ("our_models:nothing", "returns a NoneType; it must return an nn.Module"),
        ("our_models:no_arguments", "cannot be built with num_classes=3 .*unexpected keyword"),
        ("our_models:key_error", "cannot be built .*KeyError: 'weights'"),
    ],
)
def test_a_factory_that_gives_no_model_is_told_with_a_remedy(factory, told):
    with pytest.raises(ModelError, match=told):
        build_classifier(model(factory), 3)


def test_arguments_that_the_factory_does_not_take():
    with pytest.raises(ModelError, match=r"cannot be built .*'depth'"):
        build_classifier(model(arguments={"depth": 3}), 3)


@pytest.mark.parametrize(
    ("config", "kind", "told"),
    [
        (model("our_models:ten_classes"), ModelError, "returns 10 classes for num_classes=3"),
        (model("our_models:Crashes"), ModelError, r"fails on images of \[16, 16\]: KeyError"),
        (model("our_models:lazy"), PosteriorError, "2.weight of the model is lazy; it must have"),
        (model("our_models:TwoHeads"), ModelError, "returns a tuple in training.*auxiliary"),
        (
            model("our_models:Fields", arguments={"name": "out"}),
            PosteriorError,
            r"'images' \(shape .*, 'out' \(shape .* the field 'logits'. Set output_field",
        ),
        (
            model("our_models:Fields", arguments={"name": "tuple"}, output_field=2),
            PosteriorError,
            "a tuple whose fields are 0 .*, 1 .* the field 2",
        ),
        (model(arguments={"dropout": 0.0}), PosteriorError, "dropout"),
        (model(output="log_probs"), PosteriorError, "log_probs"),
        (ModelConfig(factory="our_models:flat"), ModelError, r"fails on images of \[32, 32\]"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_the_fit(config, kind, told):
    with pytest.raises(kind, match=told):
        check_model(config, 3)


@pytest.mark.parametrize(("name", "field"), [("logits", None), ("out", "out"), ("tuple", 1)])
def test_a_prediction_in_a_field_is_read_in_training_and_from_a_checkpoint(tmp_path, name, field):
    config = model("our_models:Fields", arguments={"name": name}, output_field=field)
    check_model(config, 3)
    classifier = build_classifier(config, 3)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert classifier.train()(images).shape == (2, 3)
    loaded = load_checkpoint(
        checkpoint_uri(str(tmp_path), save_checkpoint(str(tmp_path), classifier, config, CLASSES)),
        model=config,
    )
    assert torch.equal(loaded.classifier(images), classifier.eval()(images))


@pytest.mark.parametrize("factory", ["our_models:flat", "our_models:Tied", "mobilenet_v3_small"])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path, factory):
    config = model(factory)
    torch.manual_seed(1)
    classifier = build_classifier(config, 3).eval()
    fit = FitSummary(name="a fit", labels=20, metrics={"accuracy": 0.5})
    sha256 = save_checkpoint(str(tmp_path), classifier, config, CLASSES, fit)
    found = load_checkpoint(checkpoint_uri(str(tmp_path), sha256) + "/", model=config)
    assert (found.sha256, found.config, found.classes) == (sha256, config, CLASSES)
    assert describe(checkpoint_uri(str(tmp_path), sha256)).fit == fit
    assert not any(module.training for module in found.classifier.modules())
    before, after = classifier.state_dict(), found.classifier.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(found.classifier(images()), classifier(images()))
    assert save_checkpoint(str(tmp_path), found.classifier, config, CLASSES, fit) == sha256


def test_the_name_vouches_for_what_the_weights_mean_too(tmp_path):
    torch.manual_seed(1)
    classifier = build_classifier(model(), 3)
    names = {
        save_checkpoint(str(tmp_path), classifier, config, classes)
        for config in (model(), model(mean=[0.5, 0.5, 0.5]))
        for classes in (CLASSES, CLASSES[::-1])
    }
    assert len(names) == 4


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(1)
    sha256 = save_checkpoint(str(tmp_path), build_classifier(model(), 3), model(), CLASSES)
    return Path(checkpoint_uri(str(tmp_path), sha256))


@pytest.mark.parametrize("at", [3, 100, -1])
def test_a_flipped_bit_is_noticed(checkpoint, at):
    data = bytearray((checkpoint / WEIGHTS).read_bytes())
    data[at] ^= 1
    (checkpoint / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="not the one in the folder's name"):
        load_checkpoint(str(checkpoint))


def test_a_checkpoint_whose_weights_are_torn_or_missing_is_refused(checkpoint):
    file = checkpoint / WEIGHTS
    architecture = read_architecture(str(checkpoint))
    for size in (file.stat().st_size // 2, 100, 0):
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(LostCheckpointError, match=f"{file} is damaged"):
            load_checkpoint(str(checkpoint))
    with pytest.raises(LostCheckpointError, match=f"{file} is damaged"):
        read_architecture(str(checkpoint))
    file.unlink()
    for read in (load_checkpoint, read_architecture):
        with pytest.raises(LostCheckpointError, match=f"{file} is missing"):
            read(str(checkpoint))
    assert (architecture.model, architecture.classes) == (model(), CLASSES)


def test_no_score_depends_on_the_description(checkpoint):
    file = checkpoint / DESCRIPTION
    file.write_text(file.read_text().replace("16", "32"))
    assert load_checkpoint(str(checkpoint), model=model()).config == model()
    file.unlink()
    assert load_checkpoint(str(checkpoint), model=model()).config == model()


def named_by_itself(folder, data):
    target = folder / storage.sha256(data)
    target.mkdir()
    (target / WEIGHTS).write_bytes(data)
    description = Description(model=model(), classes=CLASSES, sha256=target.name)
    (target / DESCRIPTION).write_bytes(description.to_json())
    return str(target)


class Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "dump", [partial(pickle.dumps, protocol=2), None], ids=["pickle", "torch"]
)
def test_weights_with_code_in_them_are_refused_and_the_code_not_run(tmp_path, dump):
    canary, file = tmp_path / "canary", tmp_path / "weights.pt"
    if dump:
        file.write_bytes(dump({"1.weight": Canary(canary)}))
    else:
        torch.save({"1.weight": Canary(canary)}, file)
    with pytest.raises(ModelError, match="cannot be loaded: the file must hold only tensors"):
        build_classifier(model(weights=str(file)), 3)
    with pytest.raises(CheckpointError, match="not written by this version"):
        load_checkpoint(named_by_itself(tmp_path, file.read_bytes()))
    assert not canary.exists()
    torch.load(file, weights_only=False) if not dump else pickle.loads(file.read_bytes())
    assert canary.exists()


def test_a_checkpoint_from_elsewhere_is_told_apart(tmp_path):
    weights = build_classifier(model(), 3).network.state_dict()
    meanings = [None, {"format": "pt"}, {"baal_ray": json.dumps({"model": {"new": 1}})}]
    for meaning in meanings:
        uri = named_by_itself(tmp_path, safetensors.torch.save(weights, meaning))
        with pytest.raises(CheckpointError, match="not written by this version of baal_ray"):
            load_checkpoint(uri)


def test_a_checkpoint_whose_factory_has_changed_is_refused(tmp_path):
    fitted = build_classifier(model(), 3)
    config = model(arguments={"width": 9})
    sha256 = save_checkpoint(str(tmp_path), fitted, config, CLASSES)
    with pytest.raises(CheckpointError, match="does not fit 'our_models:flat'"):
        load_checkpoint(checkpoint_uri(str(tmp_path), sha256), model=config)


@pytest.mark.parametrize("extension", [".safetensors", ".pt", ".pth", ".bin"])
def test_given_weights_are_loaded(tmp_path, extension):
    weights = build_classifier(model(), 3).network.state_dict()
    file = str(tmp_path / f"weights{extension}")
    if extension == ".safetensors":
        safetensors.torch.save_file(weights, file)
    else:
        torch.save(weights, file)
    found = build_classifier(model(weights=file), 3).network.state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_head_for_other_classes_starts_fresh_and_says_so(tmp_path, caplog):
    weights = build_classifier(model(), 3).network.state_dict()
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING):
        found = build_classifier(model(weights=str(tmp_path / "w.safetensors")), 5)
    assert torch.equal(found.network[1].weight, weights["1.weight"])
    assert found.network[3].weight.shape == (5, 8)
    assert "2 tensors start fresh" in caplog.text
    assert "3.bias, 3.weight" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"conv.weight": torch.zeros(3)}, "has no tensor that fits the model"),
        ({"state_dict": {"1.weight": torch.zeros(3)}}, "must hold only named tensors"),
        (torch.zeros(3), "must hold only named tensors"),
        ({"epoch": 3}, "must hold only named tensors"),
    ],
)
def test_weights_for_something_else_are_refused(tmp_path, content, told):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=told):
        build_classifier(model(weights=str(tmp_path / "w.pt")), 3)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_weights_that_are_rubbish_or_missing(tmp_path, name):
    file = tmp_path / name
    with pytest.raises(StorageError, match="cannot be read"):
        build_classifier(model(weights=str(file)), 3)
    file.write_bytes(b"\x08\0\0\0\0\0\0\0rubbish")
    with pytest.raises(ModelError, match="cannot be loaded: the file must hold only tensors"):
        build_classifier(model(weights=str(file)), 3)


@pytest.mark.parametrize("config", [model(weights="DEFAULT"), model("vgg11", weights="BEST")])
def test_weights_that_torchvision_does_not_have(config):
    with pytest.raises(ModelError, match="or a name that torchvision has for"):
        build_classifier(config, 3)
