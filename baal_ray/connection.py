"""The connection to a Ray cluster. Whatever forbids it is reported within seconds.

Ray itself tries for a quarter of an hour to reach a head that is gone, and reports many other
faults as a traceback of its insides.
"""

import json
import os
import sys
from typing import Any

import grpc
import ray
from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
from ray._common.utils import get_default_ray_temp_dir
from ray._private import services
from ray._private.authentication.authentication_token_setup import (
    ensure_token_if_auth_enabled,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.gcs_utils import create_gcs_channel
from ray._private.ray_constants import KV_NAMESPACE_CLUSTER
from ray._private.utils import check_version_info, validate_socket_filepath
from ray.core.generated.gcs_service_pb2 import InternalKVGetRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub
from ray.exceptions import AuthenticationError, RayError

from baal_ray.errors import ClusterError
from baal_ray.factory_module import worker_setup

# Seconds that a head has to answer. One that is well takes milliseconds.
_ANSWER_SECONDS = 10

# The longest name of a socket below Ray's temporary folder; this one is the dashboard's.
_LONGEST_SOCKET = "dash_TaskEventsHead"

_TOKEN_REMEDY = (
    "Ray takes the token from RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or "
    "~/.ray/auth_token, and sends it if RAY_AUTH_MODE is token; put the cluster's token there"
)


def connect(**settings: Any) -> None:
    """Join the cluster that this job or machine belongs to, or start a local one.

    Args:
        **settings: Arguments of `ray.init`.

    Raises:
        ClusterError: If there is no usable cluster, and none can be started.
    """
    # Without a terminal, Ray Data by default logs ten lines of progress every 10 seconds.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    if ray.is_initialized():
        return
    address = check_cluster(settings.get("address"))
    if address is None:
        _check_temporary_folder()
    elif not services.find_node_ids():
        raise ClusterError(
            f"no node of the cluster {_named(address)} runs on this machine; a driver must run on "
            "one of its nodes. Submit the round to the cluster with `baal-ray submit`, or unset "
            "RAY_ADDRESS to use this machine alone"
        )
    try:
        ray.init(runtime_env=_environment(), **settings)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        what = f"cannot join the cluster {_named(address)}" if address else "does not start here"
        raise ClusterError(
            f"Ray {what}: {error}. The logs below {get_default_ray_temp_dir()} say more"
        ) from error


def _environment() -> dict[str, Any] | None:
    """Return the runtime environment of this job's workers; None for Ray's own."""
    setup = worker_setup()
    return {"worker_process_setup_hook": setup} if setup else None


def check_cluster(address: str | None = None) -> str | None:
    """Refuse a cluster that does not answer, or that this process cannot join.

    Args:
        address: Address as for `ray.init`; by default that in RAY_ADDRESS, or that of the cluster
            that was last started on this machine.

    Returns:
        The address of the cluster, `host:port`; None if there is none to join, so that Ray would
        start one on this machine.

    Raises:
        ClusterError: If the address is of another kind, if nothing or something else than a head
            of Ray answers within seconds, if the cluster requires another token, or if it runs
            another version of Ray or Python.
    """
    given = address or os.environ.get("RAY_ADDRESS", "")
    if "://" in given:
        raise ClusterError(
            f"RAY_ADDRESS is {given}; it must be host:port, the address of a cluster whose driver "
            "runs on one of its nodes. To run a round from elsewhere, give the URL of Ray's "
            "dashboard to `baal-ray submit --address http://…`"
        )
    try:
        found: str | None = services.canonicalize_bootstrap_address(address)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"RAY_ADDRESS is {given}, but no cluster is found there ({error}); it must be "
            "host:port. Correct it, or unset it to use this machine"
        ) from error
    if found is not None:
        _check_token(found)
        _check_versions(found, _metadata(found))
    return found


def _check_token(address: str) -> None:
    """Refuse the lack of a token that Ray would look for here, as `ray.init` does."""
    if not os.environ.get("RAY_ADDRESS"):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ensure_token_if_auth_enabled(create_token_if_missing=False)
    except AuthenticationError as error:
        raise ClusterError(
            f"RAY_AUTH_MODE is token, but there is no token to send to the cluster "
            f"{_named(address)}. {_TOKEN_REMEDY}, or unset RAY_AUTH_MODE if it needs none"
        ) from error


def _metadata(address: str) -> dict[str, Any]:
    """Ask the head for the cluster's versions, with a deadline that Ray's own client has not."""
    request = InternalKVGetRequest(key=CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER)
    with create_gcs_channel(address) as channel:
        try:
            answer = InternalKVGcsServiceStub(channel).InternalKVGet(
                request, timeout=_ANSWER_SECONDS
            )
        except grpc.RpcError as error:
            raise _no_answer(address, error) from error
    return json.loads(answer.value or b"{}")  # type: ignore[no-any-return]


def _no_answer(address: str, error: Any) -> ClusterError:
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        return ClusterError(
            f"the cluster {_named(address)} requires a token; the one that was sent is wrong, or "
            f"there is none to send. {_TOKEN_REMEDY}"
        )
    where, remedy = _named(address), "unset RAY_ADDRESS to use this machine"
    if not os.environ.get("RAY_ADDRESS"):
        remedy = "run `ray stop`, which forgets the cluster that was last started on this machine"
    return ClusterError(
        f"no cluster answers {where} ({error.details()}); its head must, within "
        f"{_ANSWER_SECONDS} seconds. Start Ray there, or {remedy}"
    )


def _check_versions(address: str, metadata: dict[str, Any]) -> None:
    if not metadata:
        return
    try:
        check_version_info(metadata, "")
    except RuntimeError as error:
        ours = f"Ray {ray.__version__} and Python {'.'.join(map(str, sys.version_info[:3]))}"
        raise ClusterError(
            f"the cluster {_named(address)} runs Ray {metadata['ray_version']} and Python "
            f"{metadata['python_version']}, but this process {ours}; both must be the same. "
            "Install the same versions here and on every node"
        ) from error


def _check_temporary_folder() -> None:
    """Refuse a temporary folder below which a local cluster could not make its sockets."""
    folder = get_default_ray_temp_dir()
    # As Ray names it: with the time in microseconds, and the driver's process id.
    session = f"session_0000-00-00_00-00-00_000000_{os.getpid()}"
    path = os.path.join(folder, session, "sockets", _LONGEST_SOCKET)
    try:
        validate_socket_filepath(path)
    except OSError as error:
        name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        raise ClusterError(
            f"{name} is {os.environ.get(name)}; it is too long, because the paths of Ray's "
            f"sockets below it would have up to {len(os.fsencode(path))} bytes, and the operating "
            "system allows about a hundred. Set RAY_TMPDIR to a folder with a short path"
        ) from error


def _named(address: str) -> str:
    """Return the address with the setting that it comes from."""
    given = os.environ.get("RAY_ADDRESS")
    return f"at RAY_ADDRESS={given}" if given else f"at {address}"
