"""Rounds whose files are removed, torn and flipped between their stages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from baal_ray.config import RoundConfig
from baal_ray.driver import round as round_module
from baal_ray.driver import run_round
from baal_ray.errors import StorageError
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri
from pools import label_of, round_config, write_labelled, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")

# The function that comes after each stage, where a round can be stopped.
AFTER = {
    "fit": (round_module._Round, "_score"),
    "scores": (round_module._Round, "_batch"),
    "candidates": (round_module._Round, "_pick"),
    "batch": (Manifest, "acquire"),
    "commit": (round_module._Round, "_finish"),
}


class Stopped(BaseException):
    """The end of a driver, wherever it stands."""


@contextmanager
def stopping_after(stage: str) -> Iterator[None]:
    def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*AFTER[stage], stop)
        with pytest.raises(Stopped):
            yield


def remove(file: Path) -> None:
    file.unlink()


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)


def picks(config: RoundConfig, round_id: str) -> list[str]:
    rows = Manifest(manifest_uri(config.workspace)).rows(round_id=round_id).sort_by("rank")
    ids: list[str] = rows["id"].to_pylist()
    return ids


@pytest.fixture(scope="module")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> RoundConfig:
    """Return a workspace after a round, whose picks have their labels."""
    folder = tmp_path_factory.mktemp("recovery")
    write_pool(folder, images=120, per_file=40)
    further = [{"samples": 8, "share": 0.3}]
    config = round_config(folder, scoring={"samples": 4, "further_stages": further})
    manifest = Manifest(manifest_uri(config.workspace))
    labelled = write_labelled(folder)
    import_labelled_set(manifest, labelled, workspace=config.workspace, classes=config.classes)
    run_round(config, "first")
    ids = picks(config, "first")
    manifest.label(pa.table({"id": ids, "label": [label_of(image_id) for image_id in ids]}))
    return config


@pytest.mark.usefixtures("nothing_logged")
def test_whatever_is_lost_between_two_stages_the_picks_are_the_same(
    first_night: RoundConfig, tmp_path: Path
) -> None:
    config = first_night
    undisturbed = tmp_path / "workspace"
    shutil.copytree(config.workspace, undisturbed)
    other = config.model_copy(update={"workspace": str(undisturbed)})
    run_round(other, "second")

    folder = Path(config.workspace)
    night = folder / "rounds" / "second"

    def damage(pattern: str, how: Callable[[Path], None], since: set[Path]) -> None:
        files = set(folder.glob(pattern)) - since
        assert files, pattern
        for file in files:
            how(file)

    there = set(folder.rglob("*"))
    with stopping_after("fit"):
        run_round(config, "second")
    damage("checkpoints/*/model.safetensors", tear, there)
    damage("rounds/first/batch/*.parquet", flip, set())
    with stopping_after("scores"):
        run_round(config, "second")
    damage("scores/*/*.parquet", remove, there)
    damage("rounds/second/fit.json", flip, there)
    with stopping_after("candidates"):
        run_round(config, "second")
    damage("rounds/second/candidates/*.parquet", flip, there)
    damage("checkpoints/*/model.json", remove, there)
    with stopping_after("batch"):
        run_round(config, "second")
    damage("rounds/second/batch/*.parquet", tear, there)
    damage("scores/*/*.parquet", flip, there)
    with stopping_after("commit"):
        run_round(config, "second")
    damage("rounds/second/plan.json", tear, there)
    damage("rounds/second/batch*.json", flip, there)
    damage("rounds/second/batch/*.parquet", remove, there)
    done = run_round(config, "second")
    assert picks(config, "second") == picks(other, "second")
    assert (done.acquired, done.committed_before) == (10, False)
    damage("rounds/second/round.json", flip, there)
    assert run_round(config, "second").acquired == 10
    assert run_round(config, "second").committed_before
    assert list((night / "batch").glob("*.parquet"))


def test_images_that_are_lost_for_good_are_named(first_night: RoundConfig) -> None:
    for file in Path(first_night.workspace, "rounds").glob("labelled-*/batch/*.parquet"):
        file.unlink()
    with pytest.raises(StorageError, match=r"30 images of round labelled-\w+, such as 'image-"):
        run_round(first_night.model_copy(update={"seed": 1}), "third")  # so that it fits again
