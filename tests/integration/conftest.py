import gc
import logging
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray

from baal_ray.config import RoundConfig
from baal_ray.driver import RoundResult, run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace import manifest_uri
from pools import round_config, write_labelled, write_pool

# Idle workers are kept for the next test. Otherwise each test would start its own and import
# everything again.
_KEEP_WORKERS = {
    "idle_worker_killing_time_threshold_ms": 600_000,
    "num_workers_soft_limit": 8,
}


@pytest.fixture(scope="session")
def ray_cluster(s3_environment: dict[str, str]) -> Iterator[None]:
    """Run a local Ray with two CPUs, shared by all tests that need one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, _system_config=_KEEP_WORKERS)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _free_failed_actors() -> None:
    """Free the actors, and their CPUs, that errors of the test before referred to."""
    gc.collect()


@pytest.fixture(scope="session")
def first_round(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: None
) -> tuple[RoundConfig, RoundResult]:
    """A round over 300 images and two unreadable ones, shared by tests that only look at it."""
    folder = tmp_path_factory.mktemp("round")
    pool = write_pool(folder)
    publish_table(pool, pa.table({"id": ["empty", "text"], "image": [b"", b"no image"]}))
    config = round_config(folder, scoring={"samples": 4, "max_unreadable": 0.1})
    import_labelled_set(
        Manifest(manifest_uri(config.workspace)),
        write_labelled(folder),
        workspace=config.workspace,
        classes=config.classes,
    )
    return config, run_round(config, "2026-11-22")


@pytest.fixture
def nothing_logged() -> Iterator[None]:
    """Switch logging off.

    Otherwise pytest keeps the records of Ray Data, whose errors refer to the actors that failed,
    and with them their CPUs.
    """
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
