"""Submit a round as a Ray job, follow its log, and return its exit code."""

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from baal_ray.config import RoundConfig
from baal_ray.connection import check_cluster
from baal_ray.errors import SubmissionError
from baal_ray.operations.job_files import job_files
from baal_ray.storage.files import sha256
from baal_ray.workspace import round_uri

Echo = Callable[[str], None]

# Errors that the job client raises. RuntimeError stands for every response that is not a success.
_CLIENT_ERRORS = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError)
_POLL_SECONDS = 1.0
# Number of tries before the job is given up as lost. The head may be out of reach for two minutes.
_TRIES = 120
_TALKATIVE = (
    "dashboard.modules.dashboard_sdk",
    "dashboard.modules.job.sdk",
    "_private.runtime_env.packaging",
)
# Exit code after Ctrl-C. As in a shell, it is 128 plus the number of the signal, which is 2.
_INTERRUPTED = 130

# Command of the job. It uses the submitter's Python if the head has it too, as on one machine, and
# otherwise the Python on the head's PATH. Ray does not put its own environment on a job's PATH.
_ENTRYPOINT = (
    'python={python}; "$python" -m baal_ray --version >/dev/null 2>&1 || python=python; '
    'exec "$python" -m baal_ray run {config} --round {round_id}'
)


def submit_round(
    config_path: str,
    config: RoundConfig,
    round_id: str,
    *,
    address: str | None,
    working_dir: str | None = None,
    environment: Sequence[str] = (),
    echo: Echo,
) -> int:
    """Run a round on a cluster and wait for it to end.

    The job's id is derived from the workspace and the round. Submitting the same round again
    therefore joins its job if that is running or has succeeded. If the job failed or was stopped,
    another attempt follows and continues where it stopped.

    Args:
        config_path: Path of the YAML file, which lies in `working_dir` if that is given.
        config: Configuration in that file.
        round_id: Id of the round.
        address: URL of the Ray dashboard, such as http://127.0.0.1:8265. By default Ray looks for
            it.
        working_dir: Folder that the job runs in. All its files are uploaded except the workspace,
            the images and links that lead out of it. By default, only the configuration is, with
            the module or package of `model.factory` and a relative `model.weights` beside it.
        environment: Names of variables that the job and its workers get with their values here,
            such as AWS_SECRET_ACCESS_KEY. Everyone who can see Ray's dashboard sees the values.
        echo: Function that is called with each piece of the log.

    Returns:
        The exit code of the job's driver, or 130 if Ctrl-C ended the waiting, but not the job.

    Raises:
        ConfigError: If the round's id is not valid.
        ClusterError: If the cluster in RAY_ADDRESS does not answer, or cannot be joined.
        SubmissionError: If there is no cluster, it refuses the job, or a variable is not set.
    """
    round_uri(config.workspace, round_id)  # raises if the id is not valid
    values = _values_of(environment)
    name = f"baal-ray-{sha256(config.workspace.encode())[:8]}-{round_id}"
    with job_files(config_path, config, working_dir) as files, _plain_errors(address):
        entrypoint = _ENTRYPOINT.format(
            python=shlex.quote(sys.executable),
            config=shlex.quote(files.config),
            round_id=round_id,
        )
        runtime_env = {
            "working_dir": files.folder,
            "excludes": list(files.excludes),
            "env_vars": values,
        }
        client = _connect(address)
        echo(f"{files.summary()}\n")
        job = _submit(client, name, entrypoint, runtime_env, echo)
    try:
        return _exit_code(asyncio.run(_end_of(client, job, echo)), echo)
    except KeyboardInterrupt:
        echo(
            f"\njob {job} keeps running. Submit the round again to follow it, or stop it with "
            f"`ray job stop {job} --address {client.get_address()}`\n"
        )
        return _INTERRUPTED


def _values_of(names: Sequence[str]) -> dict[str, str]:
    lacking = [name for name in names if name not in os.environ]
    if lacking:
        raise SubmissionError(
            f"--env names {', '.join(map(repr, lacking))}; each must be the name of a variable "
            "that is set here. Export it, and give its name alone"
        )
    return {name: os.environ[name] for name in names}


def _connect(address: str | None) -> JobSubmissionClient:
    if address is not None and "://" not in address:
        # Ray would take this for an address of its own protocol and wait 40 seconds for an answer.
        raise SubmissionError(f"--address is {address!r}; it must be a URL: http://{address}")
    # These loggers say at length what `echo` says in one line.
    for name in _TALKATIVE:
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    # Send the token if there is one, which `ray.init` does but the client does not. The second
    # call raises if a token is required and there is none. Later, Ray would abort the process.
    logging.getLogger(maybe_enable_token_auth_if_token_available.__module__).setLevel("ERROR")
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    ensure_token_if_auth_enabled(create_token_if_missing=False)
    if address is not None:
        # Ray prefers RAY_ADDRESS to the client's argument, and this variable to everything else.
        os.environ["RAY_API_SERVER_ADDRESS"] = address
    elif "://" not in os.environ.get("RAY_API_SERVER_ADDRESS", os.environ.get("RAY_ADDRESS", "")):
        check_cluster()  # Ray asks the head for its dashboard's URL, and would wait for minutes
    return JobSubmissionClient(address)


def _submit(
    client: JobSubmissionClient,
    name: str,
    entrypoint: str,
    runtime_env: dict[str, Any],
    echo: Echo,
) -> str:
    """Return the id of the attempt that is running or has succeeded, or submit a new one."""
    while True:
        job, status = _attempt(client, name)
        if status is not None:
            succeeded = status == JobStatus.SUCCEEDED
            echo(f"job {job} {'has already succeeded' if succeeded else 'is running'}; its log:\n")
            return job
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env)
        except RuntimeError:
            if _attempt(client, name) == (job, None):
                raise
            # Somebody else submitted it in between.
        else:
            echo(f"job {job} was submitted; its log:\n")
            return job


def _attempt(client: JobSubmissionClient, name: str) -> tuple[str, JobStatus | None]:
    """Return the id of the current attempt, and its status or None if it is not submitted yet."""
    attempts = {job.submission_id: job.status for job in client.list_jobs()}
    number = 1
    while attempts.get(f"{name}-{number}") in (JobStatus.FAILED, JobStatus.STOPPED):
        number += 1
    return f"{name}-{number}", attempts.get(f"{name}-{number}")


async def _end_of(client: JobSubmissionClient, job: str, echo: Echo) -> JobDetails:
    """Show a job's log until the job ends, and reconnect whenever the connection is lost."""
    log, tries = _Log(echo), 0
    while True:
        with suppress(*_CLIENT_ERRORS):
            await log.follow(client, job)
        try:
            details = client.get_job_info(job)
        except _CLIENT_ERRORS as error:
            tries += 1
            if tries == _TRIES:
                raise SubmissionError(
                    f"the connection to job {job} was lost ({_reason(error)}); the job may still "
                    "be running. Submit the round again to follow it"
                ) from error
        else:
            tries = 0
            if details.status.is_terminal():
                with suppress(*_CLIENT_ERRORS):
                    log.show(client.get_job_logs(job))
                return details
        await asyncio.sleep(_POLL_SECONDS)


class _Log:
    """A job's log. Each piece is shown once, although every connection begins at the start."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._shown = 0

    async def follow(self, client: JobSubmissionClient, job: str) -> None:
        """Show new text until the connection ends."""
        read = 0
        async for text in client.tail_job_logs(job):
            self.show(text, start=read)
            read += len(text)

    def show(self, text: str, start: int = 0) -> None:
        """Show the new part of a piece that begins `start` characters into the log."""
        new = text[max(0, self._shown - start) :]
        if new:
            self._echo(new)
            self._shown = start + len(text)


def _exit_code(details: JobDetails, echo: Echo) -> int:
    """Return the driver's exit code, but never 0 unless the job succeeded.

    A job that was stopped has no exit code, or that of a clean exit, and is not a success.
    """
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    why = details.message if code is None else f"exit code {code}"
    echo(
        f"job {details.submission_id} {details.status.lower()}: {why}\n"
        "Submit the round again to continue where it stopped.\n"
    )
    return 1 if not code else code if code > 0 else 128 - code


@contextmanager
def _plain_errors(address: str | None) -> Iterator[None]:
    """Turn Ray's errors into errors that name a remedy."""
    where = address or os.environ.get("RAY_ADDRESS") or "the cluster on this machine"
    try:
        yield
    except AuthenticationError as error:
        raise SubmissionError(
            f"{where} requires a token; the one that was sent is wrong, or there is none to send "
            f"({_reason(error)}). Ray takes the token from RAY_AUTH_TOKEN, the file that "
            "RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token; put the cluster's token there"
        ) from error
    except ConnectionError as error:
        raise SubmissionError(
            f"no Ray dashboard answers at {where} ({_reason(error)}). Start Ray (`ray start "
            "--head`), forward its port (`ray dashboard cluster.yaml`), or give the dashboard's "
            "URL with --address"
        ) from error
    except _CLIENT_ERRORS as error:
        remedy = (
            "; keep data and environments out of --working-dir, or list them in a .gitignore there"
            if "exceed" in str(error)
            else ""
        )
        raise SubmissionError(f"{where} refused the job: {_reason(error)}{remedy}") from error


def _reason(error: Exception) -> str:
    """Return the sentence with the cause: the first, or the one at the end of a traceback."""
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    if not lines:
        return type(error).__name__
    line = lines[-1] if "Traceback" in lines[0] else lines[0]
    return line.strip().split(". ")[0].rstrip(".")
