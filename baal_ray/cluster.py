"""The Ray cluster, and what it can ever give, held against what a round asks for."""

import math
import os
from collections.abc import Mapping, Sequence

import ray

from baal_ray.config import ResourcesConfig
from baal_ray.errors import ResourceError

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

# Pixels of the smallest images that gain by it (benchmarks/kept_memory.txt). A process with
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
