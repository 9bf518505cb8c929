import json

import pytest

import stage_files
from baal_ray import storage
from baal_ray.checkpoint import Description
from baal_ray.config import ModelConfig
from baal_ray.errors import ConfigError, CorruptFileError, FormatError, LostFileError
from baal_ray.experiment.run import ExperimentRecord
from baal_ray.scoring.batch_size import BatchSizeTrial
from baal_ray.workspace.records import Fingerprint, FitRecord
from baal_ray.workspace.stage_files import CandidatesResult, FurtherStage, Plan, RoundRecord

RECORDS = [
    stage_files.plan(3),
    stage_files.fit_result("a" * 64),
    stage_files.NO_SCORES,
    CandidatesResult(
        scores="s", ids="i", stages=[FurtherStage(samples=20, images=9, scored=5, kept=2)]
    ),
    stage_files.batch_result(["1.parquet"], 5),
    stage_files.round_record("night", "scores/0123"),
    stage_files.fingerprint("a"),
    FitRecord(checkpoint="a" * 64, labels=20, history=[{"epoch": 1.0, "accuracy": 0.5}]),
    Description(model=ModelConfig(), classes=["a", "b"], sha256="0"),
    BatchSizeTrial(batch_size=32, images_per_second={"16": 100.0, "32": 150.5}),
    ExperimentRecord(settings={"k": 5, "model": {"image_size": [28, 28]}}, baal_ray="0.1.0"),
]


def kind_of(record):
    return type(record).__name__


def fields_of(record):
    """Return the fields in the file, without their checksum."""
    plain = json.loads(record.to_json())
    del plain["checksum"]
    return plain


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "record.json")


@pytest.mark.parametrize("record", RECORDS, ids=kind_of)
def test_a_record_comes_back_as_it_was_written(uri, record):
    storage.publish(uri, record.to_json())
    assert type(record).read(uri, "").to_json() == record.to_json()
    assert json.loads(storage.read(uri))["format"] == 1


@pytest.mark.parametrize("record", RECORDS, ids=kind_of)
def test_a_file_without_a_number_is_of_format_1_and_unknown_fields_are_ignored(uri, record):
    plain = fields_of(record)
    del plain["format"]
    plain.pop("task", None)
    storage.publish(uri, json.dumps({**plain, "new": 1}).encode())
    assert type(record).read(uri, "").to_json() == record.to_json()


@pytest.mark.parametrize("record", RECORDS, ids=kind_of)
def test_a_file_of_another_version_is_refused_by_name(uri, record):
    plain = fields_of(record)
    needed = next(name for name, field in type(record).model_fields.items() if field.is_required())
    alias = type(record).model_fields[needed].alias or needed
    older = {key: value for key, value in plain.items() if key != alias}
    for other, why in ((plain | {"format": 2}, "its format is 2"), (older, f"{alias}: Field")):
        storage.publish(uri, json.dumps(other).encode())
        with pytest.raises(FormatError, match=rf"record\.json cannot be read as format 1 .*{why}"):
            type(record).read(uri, "")


@pytest.mark.parametrize("record", RECORDS, ids=kind_of)
def test_a_change_anywhere_in_a_file_is_noticed(uri, record):
    data = record.to_json()
    for at in range(data.index(b'"checksum"')):
        flipped = bytearray(data)
        flipped[at] ^= 1
        storage.publish(uri, bytes(flipped))
        try:
            found = type(record).read(uri, "")
        except (ConfigError, FormatError, LostFileError):
            continue
        # White space does not count.
        assert found == record


def test_a_damaged_file_is_named_with_its_remedy(uri):
    storage.publish(uri, b'{"checkpoint": ')
    with pytest.raises(CorruptFileError, match=r"record\.json \(15 bytes\) is .* Delete it\."):
        FitRecord.read(uri, "Delete it.")


@pytest.mark.parametrize("outside", ["../../precious", "/precious", "s3://other/x", ""])
@pytest.mark.parametrize(
    ("record", "path"),
    [
        (FitRecord(checkpoint="a" * 64, labels=1, history=[]), ["checkpoint"]),
        (stage_files.fit_result("a" * 64), ["checkpoint"]),
        (stage_files.round_record("night"), ["result", "checkpoint"]),
        (stage_files.batch_result(["1.parquet"]), ["files", 0]),
    ],
    ids=kind_of,
)
def test_a_record_that_leads_out_of_the_workspace_is_refused(uri, record, path, outside):
    plain = fields_of(record)
    *above, last = path
    inner = plain
    for key in above:
        inner = inner[key]
    inner[last] = outside
    storage.publish(uri, json.dumps(plain).encode())
    where = ".".join(map(str, path))
    with pytest.raises(CorruptFileError, match=rf"{where}: '{outside}' .* must .*\. Restore it\."):
        type(record).read(uri, "Restore it.")


def test_a_plan_with_a_setting_that_is_unknown_says_so(uri):
    plain = fields_of(stage_files.plan())
    plain["config"]["training"]["epoch"] = 3
    storage.publish(uri, json.dumps(plain).encode())
    with pytest.raises(ConfigError, match=r"record\.json:\n.*training\.epoch is not a setting"):
        Plan.read(uri, "")


def test_scores_keep_their_folder_across_versions():
    # The name is the hash that commit a3bbace gave to the same fields, so nothing is rescored.
    record = stage_files.fingerprint("0" * 64)
    assert record.name == "53f5e143578170f3486178cc29b5fcff"
    for changed in ({"mask_seed": 1}, {"traced": False}):
        assert record.model_copy(update=changed).name != record.name
    assert Fingerprint.FORMAT == 1


def test_what_a_round_has_scored_with_is_listed_once():
    record = stage_files.round_record("night", "scores/a")
    assert record.folders == ["scores/a"]
    staged = CandidatesResult(scores="scores/b", ids="", stages=[])
    assert record.model_copy(update={"candidates": staged}).folders == ["scores/a", "scores/b"]
    assert stage_files.round_record("night", None).folders == []
    assert not RoundRecord.model_validate(record.model_dump()).result.committed_before
