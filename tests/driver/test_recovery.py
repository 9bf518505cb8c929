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


def listed_nothing() -> bool:
    raise AssertionError("the pool is listed again")


def recovery_of(workspace: str, *, alike: bool | None = None) -> Recovery:
    """Return a recovery that restores nothing, and says whether listings are as planned."""
    list_again = listed_nothing if alike is None else lambda: alike
    return Recovery(workspace, "night", restored_nothing, list_again)


def lost(workspace: str, name: str) -> LostFileError:
    return LostFileError(f"{workspace}/{name}", "is missing")


def test_results_are_made_again_but_neither_the_plan_nor_batches(workspace: str) -> None:
    recovery = recovery_of(workspace)
    assert recovery.run(losing(lost(workspace, "scores/0123/4567.parquet"))) == "done"
    assert files_of(workspace) == {"plan", "batch", "batch-2", "round"}


@pytest.mark.parametrize("name", ["fit", "scores", "candidates-2", "round"])
def test_of_a_damaged_result_only_that_is_made_again(workspace: str, name: str) -> None:
    recovery = recovery_of(workspace)
    assert recovery.run(losing(lost(workspace, f"rounds/night/{name}.json"))) == "done"
    assert files_of(workspace) == set(FILES) - {name}


def test_a_plan_that_is_lost_is_made_again(workspace: str) -> None:
    fault = lost(workspace, "rounds/night/plan.json")
    assert recovery_of(workspace).run(losing(fault)) == "done"
    assert files_of(workspace) == {"batch", "batch-2", "round"}


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("folder", ["pool", "targets"])
def test_a_plan_stays_if_what_it_lists_can_be_listed_alike(
    workspace: str, folder: str, alike: bool
) -> None:
    fault = lost(workspace, f"rounds/night/{folder}/0123.parquet")
    assert recovery_of(workspace, alike=alike).run(losing(fault)) == "done"
    assert ("plan" in files_of(workspace)) == alike
    assert "scores" not in files_of(workspace)


def test_a_damaged_checkpoint_is_deleted_so_that_it_is_fitted_again(workspace: str) -> None:
    weights = f"{workspace}/checkpoints/0123/model.safetensors"
    storage.publish(weights, b"damaged")
    fault = LostCheckpointError(weights, "is damaged")
    ours = RayTaskError("score", "trace", fault).as_instanceof_cause()
    assert recovery_of(workspace).run(losing(ours)) == "done"
    assert not storage.exists(weights)


def test_lost_images_of_a_batch_are_restored_and_results_stay(workspace: str) -> None:
    restored: list[bool] = []
    recovery = Recovery(workspace, "night", lambda: restored.append(True), listed_nothing)
    fault = lost(workspace, "rounds/earlier/batch/0123.parquet")
    assert recovery.run(losing(fault)) == "done"
    assert restored == [True]
    assert files_of(workspace) == set(FILES)


def test_a_file_that_is_lost_again_and_other_errors_are_raised(workspace: str) -> None:
    recovery = recovery_of(workspace)
    fault = lost(workspace, "scores/0123/4567.parquet")
    with pytest.raises(LostFileError, match=r"4567\.parquet is missing"):
        recovery.run(losing(fault, fault))
    with pytest.raises(StorageError, match="out of reach"):
        recovery.run(losing(StorageError("the store is out of reach")))
    many = [lost(workspace, f"scores/0123/{number}.parquet") for number in range(100)]
    with pytest.raises(LostFileError, match=r"/10\.parquet is missing"):
        recovery.run(losing(*many))


def test_a_loss_while_another_is_made_good_is_made_good_first(workspace: str) -> None:
    # The images of a batch are fetched again by a listing that is lost, too.
    listing = lost(workspace, "rounds/night/pool/0123.parquet")
    restored: list[str] = []

    def restore() -> None:
        if not restored:
            restored.append("tried")
            raise listing
        restored.append("done")

    recovery = Recovery(workspace, "night", restore, lambda: True)
    batch = lost(workspace, "rounds/earlier/batch/0123.parquet")
    assert recovery.run(losing(batch, batch)) == "done"
    assert restored == ["tried", "done"]


def test_a_round_named_batch_and_files_elsewhere(workspace: str, tmp_path: Path) -> None:
    fit = f"{workspace}/rounds/batch/fit.json"
    storage.publish(fit, b"{")
    recovery = Recovery(workspace, "batch", restored_nothing, listed_nothing)
    assert recovery.run(losing(LostFileError(fit, "is damaged"))) == "done"
    assert not storage.exists(fit)
    elsewhere = f"{tmp_path}-elsewhere/scores/0.parquet"
    storage.publish(elsewhere, b"precious")
    assert recovery.run(losing(LostFileError(elsewhere, "is damaged"))) == "done"
    assert storage.exists(elsewhere)
