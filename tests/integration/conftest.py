from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster(s3_environment: dict[str, str]) -> Iterator[None]:
    """A local Ray of two CPUs, shared by all tests that need one."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.items():
            patch.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()
