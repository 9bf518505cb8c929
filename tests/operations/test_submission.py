"""Tests of faults on the way to a cluster, with a fake client. integration/ has a real cluster."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from baal_ray.config import RoundConfig
from baal_ray.errors import ConfigError, SubmissionError
from baal_ray.operations import submission


class Cluster:
    """A client with jobs by id, and a log of which each connection shows a few more pieces."""

    def __init__(self, **jobs: JobStatus) -> None:
        self.jobs = dict(jobs)
        self.log = ["one\n", "two\n", "three\n", "four\n"]
        self.connections = 0

    def list_jobs(self) -> list[Any]:
        return [SimpleNamespace(submission_id=job, status=s) for job, s in self.jobs.items()]

    def submit_job(self, *, submission_id: str, **_: object) -> None:
        if submission_id in self.jobs:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists")
        self.jobs[submission_id] = JobStatus.PENDING

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.connections += 1
        for piece in self.log[: self.connections]:
            yield piece
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

    def get_job_logs(self, job: str) -> str:
        return "".join(self.log)

    def get_job_info(self, job: str) -> Any:
        ended = self.connections == 3
        status = JobStatus.SUCCEEDED if ended else JobStatus.RUNNING
        return SimpleNamespace(submission_id=job, status=status, driver_exit_code=0, message="")


def submit(cluster: Cluster) -> str:
    return submission._submit(cluster, "round", "true", {}, lambda _: None)


@pytest.mark.parametrize(
    ("attempts", "next_one"),
    [
        ([], "round-1"),
        ([JobStatus.RUNNING], "round-1"),
        ([JobStatus.SUCCEEDED], "round-1"),
        ([JobStatus.FAILED], "round-2"),
        ([JobStatus.FAILED, JobStatus.STOPPED], "round-3"),
        ([JobStatus.STOPPED, JobStatus.PENDING], "round-2"),
    ],
)
def test_a_failed_or_stopped_attempt_is_followed_by_another(
    attempts: list[JobStatus], next_one: str
):
    jobs = {f"round-{number}": status for number, status in enumerate(attempts, start=1)}
    assert submit(Cluster(**jobs)) == next_one


def test_of_two_submitters_at_once_one_joins_the_other():
    class Race(Cluster):
        def submit_job(self, *, submission_id: str, **_: object) -> None:
            super().submit_job(submission_id=submission_id)
            super().submit_job(submission_id=submission_id)  # the other was faster

    cluster = Race()
    assert submit(cluster) == "round-1"
    assert list(cluster.jobs) == ["round-1"]


def test_a_job_that_is_refused_is_not_waited_for():
    class Full(Cluster):
        def submit_job(self, **_: object) -> None:
            raise RuntimeError("Maximum request body size 104857600 exceeded")

    with pytest.raises(RuntimeError, match="exceeded"):
        submit(Full())


def test_a_log_whose_connection_drops_is_shown_whole_and_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(submission, "_POLL_SECONDS", 0)
    shown: list[str] = []
    details = asyncio.run(submission._end_of(Cluster(), "round-1", shown.append))
    assert details.status == JobStatus.SUCCEEDED
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"


def test_a_head_that_stays_away_is_an_error(monkeypatch: pytest.MonkeyPatch):
    class Gone(Cluster):
        def get_job_info(self, job: str) -> Any:
            raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(submission, "_POLL_SECONDS", 0)
    with pytest.raises(SubmissionError, match=r"round-1 was lost \(Connection refused\)"):
        asyncio.run(submission._end_of(Gone(), "round-1", lambda _: None))


@pytest.mark.parametrize(
    ("status", "driver", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 1),
        (JobStatus.STOPPED, 0, 1),
    ],
)
def test_exit_code_is_the_drivers_and_only_success_is_0(
    status: JobStatus, driver: int | None, expected: int
):
    details = SimpleNamespace(
        submission_id="round-1", status=status, driver_exit_code=driver, message="why"
    )
    assert submission._exit_code(details, lambda _: None) == expected


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (AuthenticationError("Invalid authentication token"), "RAY_AUTH_TOKEN"),
        (ConnectionError("Failed to connect"), "ray start --head"),
        (RuntimeError("Maximum request body size 104857600 exceeded."), "gitignore"),
        (RuntimeError("Traceback …:\n  File …\nValueError: it is so.\n.\n."), "it is so$"),
    ],
)
def test_what_ray_raises_is_told_with_a_remedy(error: Exception, remedy: str):
    with pytest.raises(SubmissionError, match=remedy), submission._plain_errors("http://head"):
        raise error


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"round_id": "a/b"}, "its id is 'a/b'"),
        ({"working_dir": "/elsewhere"}, "--working-dir"),
        ({"address": "127.0.0.1:8265"}, "http://127.0.0.1:8265"),
        ({"environment": ["PATH", "NO_KEY", "A=b"]}, "--env names 'NO_KEY', 'A=b'; each must be"),
    ],
)
def test_mistakes_are_told_before_ray_is_asked(changed: dict[str, str], message: str):
    config = RoundConfig.from_dict(
        {
            "workspace": "/w",
            "classes": ["cat", "dog"],
            "pool": {"uri": "/p"},
            "selection": {"k": 1},
        }
    )
    arguments: dict[str, Any] = {"round_id": "1", "address": None, "working_dir": "/here"}
    with pytest.raises((ConfigError, SubmissionError), match=message):
        submission.submit_round("/here/a.yaml", config, echo=lambda _: None, **arguments | changed)
