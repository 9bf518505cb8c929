"""Checks of the Ray cluster against what a round needs."""

import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
from fsspec.implementations.memory import MemoryFileSystem
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from baal_ray import storage
from baal_ray.config import ResourcesConfig
from baal_ray.errors import ResourceError, StorageError
from baal_ray.factory_module import worker_setup
from baal_ray.storage.scratch import scratch_folder

# CPUs of a task that reads and decodes; Ray's default for a task. A task that writes requests
# none, because it is short and must not wait for CPUs that readers and actors hold.
_READER_CPUS = 1

# Environment of a process that computes on CPUs, in which it keeps the memory of large tensors for
# the next ones. By default glibc gives it back each time, and getting it again can take as long as
# a forward pass at 224 pixels.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",  # large tensors come from the heap
    "MALLOC_ARENA_MAX": "1",  # one heap, because those of further threads are too small
    "MALLOC_TRIM_THRESHOLD_": str(2**40),  # the heap never shrinks
}

# Pixels of the smallest images that benefit (benchmarks/engine/kept_memory.txt). Ray cannot reuse
# an idle process for one with its own environment, so it starts later.
_WORTH_KEEPING = 32 * 32


def connect() -> None:
    """Join the cluster that this job or machine belongs to, or start a local one."""
    # Without a terminal, Ray Data by default logs ten lines of progress every 10 seconds.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    if not ray.is_initialized():
        ray.init(runtime_env=job_environment())


def job_environment() -> dict[str, Any] | None:
    """Return the runtime environment of this job's workers; None for Ray's own."""
    setup = worker_setup()
    return {"worker_process_setup_hook": setup} if setup else None


def check_resources(resources: ResourcesConfig) -> None:
    """Refuse a fit or a scoring stage that the cluster can never run.

    For an autoscaling cluster its limits count, for any other its present resources.

    Raises:
        ResourceError: If the cluster is too small. The message gives what is needed and what there
            is.
    """
    connect()
    # Ray Train and Ray Data make the same call; there is no public one.
    grown = ray._private.state.state.get_max_resources_from_cluster_config()
    limit = grown or ray.cluster_resources()
    workers, actors = resources.training_workers, resources.scoring_actors
    most = resources.most_scoring_actors
    _check(
        f"the fit ({workers} workers)",
        "training",
        {"CPU": workers * resources.training_cpus, "GPU": workers * resources.training_gpus},
        limit,
    )
    # Ray Data adds actors only while there is a GPU for each, so only the first ones must fit.
    # Actors on CPUs would take the readers' CPUs too, so as many as may ever run must fit.
    _check(
        f"scoring ({most} actors, and {_READER_CPUS} CPU to read and decode)",
        "scoring",
        {
            "CPU": most * actor_cpus(resources) + _READER_CPUS,
            "GPU": actors * resources.scoring_gpus,
        },
        limit,
    )


def actor_cpus(resources: ResourcesConfig) -> float:
    """Return the CPUs that a scoring actor requests. One with a GPU leaves them to the readers."""
    return 0 if resources.scoring_gpus else resources.scoring_cpus


def runtime_env(gpus: float, image_size: Sequence[int]) -> dict[str, dict[str, str]]:
    """Return the runtime environment of an actor or worker that runs the model.

    It comes on top of the job's own.

    Args:
        gpus: Number of GPUs that the model runs on, or 0 for CPUs.
        image_size: Height and width of the images that the model sees.
    """
    if gpus or math.prod(image_size) < _WORTH_KEEPING:
        return {}
    return {"env_vars": _KEEP_MEMORY}


def _check(
    stage: str, prefix: str, needed: Mapping[str, float], limit: Mapping[str, float]
) -> None:
    for kind, amount in needed.items():
        if amount > limit.get(kind, 0):
            raise ResourceError(
                f"{stage} needs {amount:g} {kind}s, but the cluster has at most "
                f"{limit.get(kind, 0):g}; request less under resources (the settings that begin "
                f"with {prefix}_), or enlarge the cluster"
            )


# Seconds that a node has to answer. One that has just joined may install the job's environment
# first.
_ANSWER_SECONDS = 120
_EXAMPLES = 5


def check_workspace(workspace: str) -> int:
    """Refuse a workspace that is not the same on every node, such as a local path on several.

    The driver writes a file, and every node that is alive reads it back. On its own node the
    driver does this itself, because that costs no time. On every other node, a task reads it.

    Returns:
        The number of nodes that read the file.

    Raises:
        StorageError: If the driver cannot write there, or a node reads nothing or something else,
            or does not answer.
    """
    connect()
    if isinstance(storage.filesystem(workspace)[0], MemoryFileSystem):
        raise StorageError(
            f"workspace is {workspace!r}, the memory of one process; it must be visible to every "
            "process of the round. Give a path or the URI of an object store"
        )
    nodes = _alive()
    with scratch_folder(workspace) as scratch:
        uri, nonce = storage.join(scratch, "nonce"), secrets.token_bytes(16)
        storage.publish(uri, nonce)
        faults = _faults(nodes, uri, nonce)
    if faults:
        faults = {node: faults[node] for node in faults.keys() & _alive()}  # spot nodes may leave
    left = [f"{nodes[node]}: {fault}" for node, fault in faults.items()]
    if left:
        more = f"; and {len(left) - _EXAMPLES} more" if len(left) > _EXAMPLES else ""
        raise StorageError(
            f"{len(left)} of {len(nodes)} nodes do not see what the driver wrote to the "
            f"workspace {workspace}; every node must ({'; '.join(left[:_EXAMPLES])}{more}). "
            "Put it in an object store, or on a file system that every node mounts at that path"
        )
    return len(nodes)


def _alive() -> dict[str, str]:
    """Return a readable name for each node that is alive, by its id."""
    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"
        for node in ray.nodes()
        if node["Alive"]
    }


def _faults(nodes: Iterable[str], uri: str, nonce: bytes) -> dict[str, str]:
    """Return what keeps nodes from reading the nonce, by node."""
    here = ray.get_runtime_context().get_node_id()
    task = ray.remote(num_cpus=0)(_fault)
    asked = {node: task.options(**_on(node)).remote(uri, nonce) for node in nodes if node != here}
    faults = {here: _fault(uri, nonce)}
    answered, _ = ray.wait([*asked.values()], num_returns=len(asked), timeout=_ANSWER_SECONDS)
    for node, answer in asked.items():
        if answer in answered:
            faults[node] = _answer(answer)
        else:
            ray.cancel(answer, force=True)
            faults[node] = f"no answer within {_ANSWER_SECONDS} seconds"
    return {node: fault for node, fault in faults.items() if fault is not None}


def _on(node: str) -> dict[str, Any]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _fault(uri: str, nonce: bytes) -> str | None:
    """Return what keeps this node from reading the nonce, or None. It runs on each node."""
    try:
        found = storage.read(uri)
    except StorageError as error:
        return str(error)
    return None if found == nonce else f"{uri} holds something else there"


def _answer(answer: "ray.ObjectRef[str | None]") -> str | None:
    try:
        return ray.get(answer)
    except RayError as error:  # the task never ran: baal_ray may not be installed there
        return str(error).strip().splitlines()[-1]
