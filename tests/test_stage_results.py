"""That a stage's result is made once, and is the same for whoever asks."""

import json
import logging

import pytest

from baal_ray import storage
from baal_ray.errors import CorruptFileError
from baal_ray.workspace.rounds import StageResults


@pytest.fixture
def results(tmp_path):
    return StageResults(str(tmp_path), "night")


def refuse():
    raise AssertionError("the stage runs again")


def test_a_stage_runs_once_and_says_what_it_came_to(results, caplog):
    caplog.set_level(logging.INFO)
    first = results.once("fit", lambda: {"labels": 1200, "metrics": {"accuracy": 0.75}})
    assert first["seconds"] >= 0
    assert results.running == "fit"
    assert results.once("fit", refuse) == results.read("fit") == first
    made, found = caplog.messages
    assert made.startswith("fit: ")
    assert made.endswith(" s, 1,200 labels, accuracy 0.75")
    assert found == "fit: done before"


def test_a_stage_that_fails_leaves_nothing_and_runs_again(results):
    with pytest.raises(ZeroDivisionError):
        results.once("scores", lambda: {"scored": 1 // 0})
    assert results.read("scores") is None
    assert results.running == "scores"
    assert results.once("scores", lambda: {"scored": 1})["scored"] == 1


def test_the_result_of_a_driver_that_was_first_counts(results, tmp_path):
    other = StageResults(str(tmp_path), "night")

    def slower():
        other.once("batch", lambda: {"acquired": 5})
        return {"acquired": 4}

    assert results.once("batch", slower)["acquired"] == 5
    assert json.loads(storage.read(results.uri("batch")))["acquired"] == 5


def test_a_rotten_result_is_told_and_not_made_again(results):
    storage.publish(results.uri("plan"), b'{"seed": 1')
    with pytest.raises(CorruptFileError, match="night"):
        results.once("plan", refuse)
