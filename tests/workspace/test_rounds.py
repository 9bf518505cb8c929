import json
import logging

import pytest

import stage_files
from baal_ray import storage
from baal_ray.errors import CorruptFileError, LostFileError, UnfinishedRoundError
from baal_ray.workspace import round_uri
from baal_ray.workspace.rounds import (
    StageResults,
    finished_rounds,
    read_stage,
    refuse_unfinished,
    unfinished_rounds,
)
from baal_ray.workspace.stage_files import BatchResult, FitResult, Plan, RoundRecord, ScoresResult
from stage_files import batch_result, plan, round_record


def put(workspace, round_id, name, content="{}"):
    storage.publish(f"{round_uri(workspace, round_id)}/{name}", content.encode())


def finish(workspace, round_id, version):
    stage_files.put(workspace, round_id, plan(version), round_record(round_id))


def finished(workspace):
    return [each.record.result.round_id for each in finished_rounds(workspace)]


def test_a_new_workspace_has_no_rounds(tmp_path):
    assert finished_rounds(str(tmp_path)) == unfinished_rounds(str(tmp_path)) == []
    refuse_unfinished(str(tmp_path))
    assert read_stage(str(tmp_path), "night-1", Plan) is None


def test_finished_rounds_are_in_the_order_of_the_versions_they_began_at(tmp_path):
    workspace = str(tmp_path)
    for round_id, version in (("night-9", 2), ("night-10", 11), ("a", -1), ("night-8", 2)):
        finish(workspace, round_id, version)
    assert finished(workspace) == ["a", "night-8", "night-9", "night-10"]


@pytest.mark.parametrize("file", ["pool/1.parquet", "plan.json", "scores.json"])
def test_a_round_that_was_begun_is_unfinished_until_its_record_is_there(tmp_path, file):
    workspace = str(tmp_path)
    finish(workspace, "done", 0)
    put(workspace, "labelled-0123", "batch/1.parquet")
    put(workspace, "night", file)
    assert unfinished_rounds(workspace) == ["night"]
    with pytest.raises(UnfinishedRoundError, match=r"unfinished rounds: night\.") as caught:
        refuse_unfinished(workspace)
    assert caught.value.rounds == ["night"]
    put(workspace, "night", "round.json")
    assert unfinished_rounds(workspace) == []


def test_what_is_no_round_is_passed_over(tmp_path):
    workspace = str(tmp_path)
    finish(workspace, "done", 0)
    for stray in (
        "notes.txt",
        "Thumbs.db",
        "my notes.txt",
        "done (copy)/plan.json",
        "x/notes.txt",
    ):
        storage.publish(f"{workspace}/rounds/{stray}", b"{}")
    put(workspace, "labelled-0123", "batch/1.parquet")
    put(workspace, "labelled-0123", "Thumbs.db")
    assert unfinished_rounds(workspace) == []
    assert finished(workspace) == ["done"]


@pytest.mark.parametrize("rotten", ["", '{"result": {"rou', "[]", "\0"])
@pytest.mark.parametrize("kind", [Plan, BatchResult, FitResult, RoundRecord])
def test_a_rotten_record_is_named_with_what_to_do(tmp_path, kind, rotten):
    put(str(tmp_path), "night", f"{kind.STAGE}.json", rotten)
    told = rf"night/{kind.STAGE}\.json .*If round night is not finished, run it again"
    with pytest.raises(LostFileError, match=told):
        read_stage(str(tmp_path), "night", kind)


@pytest.fixture
def results(tmp_path):
    return StageResults(str(tmp_path), "night")


def refuse():
    raise AssertionError("the stage runs again")


def test_a_stage_runs_once_and_its_result_is_logged(results, caplog):
    caplog.set_level(logging.INFO)
    fitted = FitResult(checkpoint="a" * 64, labels=1200, metrics={"accuracy": 0.75})
    first = results.once(FitResult, lambda: fitted)
    assert first.seconds >= 0
    assert first.model_copy(update={"seconds": 0.0}) == fitted
    assert results.running == "fit"
    assert results.once(FitResult, refuse) == results.read(FitResult) == first
    made, found = caplog.messages
    assert made.startswith("fit: ")
    assert made.endswith(" s, 1,200 labels, accuracy 0.75")
    assert found == "fit: done before"


def test_a_stage_that_fails_leaves_nothing_and_runs_again(results):
    def scored(images):
        return ScoresResult(scores="s", scored=1 // images, unreadable=0)

    with pytest.raises(ZeroDivisionError):
        results.once(ScoresResult, lambda: scored(0))
    assert results.read(ScoresResult) is None
    assert results.running == "scores"
    assert results.once(ScoresResult, lambda: scored(1)).scored == 1


def test_the_result_of_a_driver_that_was_first_counts(results, tmp_path):
    other = StageResults(str(tmp_path), "night")

    def slower():
        other.once(BatchResult, lambda: batch_result([], 5), attempt=2)
        return batch_result([], 4)

    assert results.once(BatchResult, slower, attempt=2).acquired == 5
    assert results.uri(BatchResult, 2).endswith("night/batch-2.json")
    assert json.loads(storage.read(results.uri(BatchResult, 2)))["acquired"] == 5


def test_a_damaged_result_is_reported_and_not_made_again(results):
    storage.publish(results.uri(FitResult), b'{"checkpoint": 1')
    with pytest.raises(CorruptFileError, match="night"):
        results.once(FitResult, refuse)
