"""The Ray cluster, held against what a round asks of it."""

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
from baal_ray.storage.scratch import scratch_folder

# Of a task that reads and decodes, as Ray's tasks ask for if nothing is said. One that writes asks
# for none: it is short, and never waits for what readers and actors hold.
_READER_CPUS = 1

# Of a process that computes on CPUs: it keeps the memory of large tensors for the next ones. glibc
# gives it back each time, and getting it anew can take as long as a forward pass at 224 pixels.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",  # large tensors come from the heap,
    "MALLOC_ARENA_MAX": "1",  # the only one, as those of further threads are too small,
    "MALLOC_TRIM_THRESHOLD_": str(2**40),  # and it never shrinks
}

# Pixels of the smallest images that gain by it (benchmarks/engine/kept_memory.txt). A process with
# variables of its own is not one that Ray has waiting, so it starts later.
_WORTH_KEEPING = 32 * 32


def connect() -> None:
    """Join the cluster that this job or machine belongs to, or start a local one."""
    # Without a terminal Ray Data logs its progress, ten lines each time, every 10 seconds.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    if not ray.is_initialized():
        ray.init()


def check_resources(resources: ResourcesConfig) -> None:
    """Refuse a fit or a scoring stage that the cluster can never run.

    A cluster that can grow is measured by its limits, one that cannot by what it has.

    Raises:
        ResourceError: saying what is needed and what there is.
    """
    connect()
    # Ray Train and Ray Data ask the same way; there is no public call.
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
    # Ray Data adds actors while there is a GPU for them. Of CPUs they would take the readers' too.
    _check(
        f"scoring ({most} actors, and {_READER_CPUS} CPU to read and decode beside them)",
        "scoring",
        {
            "CPU": most * actor_cpus(resources) + _READER_CPUS,
            "GPU": actors * resources.scoring_gpus,
        },
        limit,
    )


def actor_cpus(resources: ResourcesConfig) -> float:
    """CPUs that a scoring actor asks for; one with a GPU leaves them to the readers."""
    return 0 if resources.scoring_gpus else resources.scoring_cpus


def runtime_env(gpus: float, image_size: Sequence[int]) -> dict[str, dict[str, str]]:
    """Of an actor or worker that runs the model on so many GPUs, beside what the job has.

    Args:
        gpus: 0 if it runs on CPUs.
        image_size: height and width that the model sees.
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
                f"{stage} needs {amount:g} {kind}s, and the cluster has at most "
                f"{limit.get(kind, 0):g}; ask for less under resources (the settings that begin "
                f"with {prefix}_), or give the cluster more"
            )


# A node that has just come may install the job's environment first.
_ANSWER_SECONDS = 120
_EXAMPLES = 5


def check_workspace(workspace: str) -> int:
    """Refuse a workspace that is not the same on every node, such as a local path on several.

    The driver writes a file, and every node that is alive reads it back: the driver on its own
    node, where that costs no time, and a task on each of the others.

    Returns:
        How many nodes read it.

    Raises:
        StorageError: the driver cannot write there, or a node reads nothing or something else, or
            does not answer.
    """
    connect()
    if isinstance(storage.filesystem(workspace)[0], MemoryFileSystem):
        raise StorageError(
            f"workspace is {workspace!r}, the memory of one process; every process of the round "
            "must see it. Give a path or the URI of an object store"
        )
    nodes = _alive()
    with scratch_folder(workspace) as scratch:
        uri, nonce = storage.join(scratch, "nonce"), secrets.token_bytes(16)
        storage.publish(uri, nonce)
        faults = _faults(nodes, uri, nonce)
    if faults:
        faults = {node: faults[node] for node in faults.keys() & _alive()}  # spot nodes leave
    left = [f"{nodes[node]}: {fault}" for node, fault in faults.items()]
    if left:
        more = f"; and {len(left) - _EXAMPLES} more" if len(left) > _EXAMPLES else ""
        raise StorageError(
            f"{len(left)} of {len(nodes)} nodes do not read what the driver wrote in the "
            f"workspace {workspace}, as every node must ({'; '.join(left[:_EXAMPLES])}{more}). "
            "Put it in an object store, or on a file system that every node mounts at that path"
        )
    return len(nodes)


def _alive() -> dict[str, str]:
    """What to call each node, by its id."""
    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"
        for node in ray.nodes()
        if node["Alive"]
    }


def _faults(nodes: Iterable[str], uri: str, nonce: bytes) -> dict[str, str]:
    """What keeps nodes from reading the nonce, by node."""
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
    """Run on each node."""
    try:
        found = storage.read(uri)
    except StorageError as error:
        return str(error)
    return None if found == nonce else f"{uri} holds something else there"


def _answer(answer: "ray.ObjectRef[str | None]") -> str | None:
    try:
        return ray.get(answer)
    except RayError as error:  # the task never ran: baal_ray is not installed there, say
        return str(error).strip().splitlines()[-1]
