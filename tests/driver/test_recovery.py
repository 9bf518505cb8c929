from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from baal_ray import storage
from baal_ray.driver.recovery import Recovery
from baal_ray.errors import LostCheckpointError, LostFileError, StorageError

FILES = ("plan", "fit", "scores", "candidates", "candidates-2", "batch", "batch-2", "round")


@pytest.fixture
def workspace(tmp_path: Path) -> str:
    """Return a workspace with a round that has every file."""
    for name in FILES:
        storage.publish(f"{tmp_path}/rounds/night/{name}.json", b"{}")
    return str(tmp_path)


def files_of(workspace: str) -> set[str]:
    return {path.stem for path in Path(workspace, "rounds", "night").glob("*.json")}


def losing(*errors: Exception) -> Callable[[], str]:
    """Return stages that meet each of these errors once, and then end."""
    to_come = list(errors)

    def stages() -> str:
        if to_come:
            raise to_come.pop(0)
        return "done"

    return stages


def restored_nothing() -> None:
    raise AssertionError("the batches are restored")


def lost(workspace: str, name: str) -> LostFileError:
    return LostFileError(f"{workspace}/{name}", "is missing")


def test_results_are_made_again_but_neither_the_plan_nor_batches(workspace: str) -> None:
    recovery = Recovery(workspace, "night", restored_nothing)
    assert recovery.run(losing(lost(workspace, "scores/0123/4567.parquet"))) == "done"
    assert files_of(workspace) == {"plan", "batch", "batch-2"}


@pytest.mark.parametrize("name", ["fit", "scores", "candidates-2", "round"])
def test_of_a_damaged_result_only_that_is_made_again(workspace: str, name: str) -> None:
    recovery = Recovery(workspace, "night", restored_nothing)
    assert recovery.run(losing(lost(workspace, f"rounds/night/{name}.json"))) == "done"
    assert files_of(workspace) == set(FILES) - {name}


@pytest.mark.parametrize("name", ["plan.json", "pool/0123.parquet", "targets/0123.parquet"])
def test_a_plan_is_made_again_if_it_or_what_it_lists_is_lost(workspace: str, name: str) -> None:
    recovery = Recovery(workspace, "night", restored_nothing)
    assert recovery.run(losing(lost(workspace, f"rounds/night/{name}"))) == "done"
    assert files_of(workspace) == {"batch", "batch-2"}


def test_a_damaged_checkpoint_is_deleted_so_that_it_is_fitted_again(workspace: str) -> None:
    weights = f"{workspace}/checkpoints/0123/model.safetensors"
    storage.publish(weights, b"damaged")
    fault = LostCheckpointError(weights, "is damaged")
    ours = RayTaskError("score", "trace", fault).as_instanceof_cause()
    assert Recovery(workspace, "night", restored_nothing).run(losing(ours)) == "done"
    assert not storage.exists(weights)


def test_lost_images_of_a_batch_are_restored_and_results_stay(workspace: str) -> None:
    restored = []
    recovery = Recovery(workspace, "night", lambda: restored.append(True))
    fault = lost(workspace, "rounds/earlier/batch/0123.parquet")
    assert recovery.run(losing(fault)) == "done"
    assert restored == [True]
    assert files_of(workspace) == set(FILES)


def test_a_file_that_is_lost_again_and_other_errors_are_raised(workspace: str) -> None:
    recovery = Recovery(workspace, "night", restored_nothing)
    fault = lost(workspace, "scores/0123/4567.parquet")
    with pytest.raises(LostFileError, match=r"4567\.parquet is missing"):
        recovery.run(losing(fault, fault))
    with pytest.raises(StorageError, match="out of reach"):
        recovery.run(losing(StorageError("the store is out of reach")))
    many = [lost(workspace, f"scores/0123/{number}.parquet") for number in range(100)]
    with pytest.raises(LostFileError, match=r"/10\.parquet is missing"):
        recovery.run(losing(*many))
