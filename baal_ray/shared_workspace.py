"""Whether every node of the cluster reads what the driver writes in the workspace."""

import secrets
from collections.abc import Iterable
from typing import Any

import ray
from fsspec.implementations.memory import MemoryFileSystem
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from baal_ray import storage
from baal_ray.cluster import connect
from baal_ray.errors import StorageError
from baal_ray.scratch import scratch_folder

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
