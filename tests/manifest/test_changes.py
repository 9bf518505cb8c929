import pyarrow as pa
import pytest
from deltalake import DeltaTable

from baal_ray.errors import ManifestError
from baal_ray.manifest import Manifest


@pytest.fixture
def manifest(tmp_path):
    """Return a manifest in which `a` is labelled, and `b` and `c` are not."""
    manifest = Manifest(str(tmp_path / "manifest"))
    manifest.acquire(images("a", "b", "c"), "first")
    manifest.label(images("a").append_column("label", [["cat"]]))
    return manifest


def images(*ids):
    return pa.table({"id": pa.array(ids, pa.string())})


def statuses(manifest):
    rows = manifest.rows()
    return dict(zip(rows["id"].to_pylist(), rows["status"].to_pylist(), strict=True))


def test_a_released_image_is_in_the_pool_again_and_goes_to_whoever_acquires_it(manifest):
    assert manifest.release(images("b")) == 1
    assert statuses(manifest) == {"a": "labelled", "b": "released", "c": "acquired"}
    assert sorted(manifest.ids().to_pylist()) == ["a", "c"]
    assert manifest.acquire(images("b"), "second") == 1
    assert manifest.rows(round_id="second")["status"].to_pylist() == ["acquired"]


def test_a_rejected_image_has_no_label_and_is_not_picked_again(manifest):
    assert manifest.reject(images("b")) == 1
    assert sorted(manifest.ids().to_pylist()) == ["a", "b", "c"]
    assert manifest.labelled()["id"].to_pylist() == ["a"]
    assert manifest.history()[0]["change"] == "reject"


@pytest.mark.parametrize("method", ["release", "reject"])
def test_only_images_that_wait_change_and_each_once(manifest, method):
    change = getattr(manifest, method)
    change(images("b"))
    version = manifest.version
    with pytest.raises(
        ManifestError, match=f"1 images are not waiting for a label .'a' is labelled.*{method}"
    ):
        change(images("c", "a"))
    with pytest.raises(ManifestError, match=r"1 ids are not in the manifest \('z'"):
        change(images("c", "z"))
    with pytest.raises(ManifestError, match="1 ids are duplicated"):
        change(images("c", "c"))
    assert change(images("b")) == 0
    assert manifest.version == version
    assert statuses(manifest)["c"] == "acquired"


def test_a_rejected_image_is_not_released_but_can_be_labelled_after_all(manifest):
    manifest.reject(images("b"))
    with pytest.raises(ManifestError, match="'b' is rejected"):
        manifest.release(images("b"))
    manifest.label(images("b").append_column("label", [["dog"]]))
    assert statuses(manifest)["b"] == "labelled"


def test_what_else_a_row_says_stays_when_it_is_released(manifest):
    before = manifest.rows(round_id="first").filter([False, True, False]).to_pylist()[0]
    manifest.release(images("b"))
    assert manifest.rows(status="released").to_pylist() == [before | {"status": "released"}]


def test_a_corrected_label_leaves_the_old_one_in_the_history(manifest):
    version = manifest.version
    correction = images("a").append_column("label", [["dog"]])
    assert manifest.label(correction, overwrite=True) == 1
    assert manifest.labelled()["label"].to_pylist() == ["dog"]
    assert manifest.at(version).labelled()["label"].to_pylist() == ["cat"]
    assert [event["change"] for event in manifest.history()][:2] == ["label", "label"]


def test_a_forgotten_image_has_no_row_and_its_round_is_still_there(manifest):
    assert manifest.forget(images("a", "z")) == 1
    assert sorted(statuses(manifest)) == ["b", "c"]
    assert manifest.forget(images("a", "z")) == 0
    assert (manifest.history()[0]["change"], manifest.history()[0]["rows"]) == ("forget", 1)
    assert manifest.acquire(images("d"), "second") == 1
    assert manifest.rounds() == ["first", "second"]


def test_forgetting_the_last_image_leaves_an_empty_manifest(manifest):
    assert manifest.forget(images("a", "b", "c")) == 3
    assert manifest.rows().num_rows == len(manifest.ids()) == 0


def test_the_log_of_the_table_names_no_image(tmp_path):
    # By default, Delta Lake keeps the first and the last value of each column in its log.
    manifest = Manifest(str(tmp_path / "manifest"))
    manifest.acquire(images("canary-1", "canary-2"), "first")
    for number in range(100):  # a hundred commits make a checkpoint of the log
        manifest.label(
            images("canary-1").append_column("label", [[f"class {number}"]]), overwrite=True
        )
    manifest.forget(images("canary-1"))
    logged = list((tmp_path / "manifest" / "_delta_log").iterdir())
    assert {file.suffix for file in logged} >= {".json", ".parquet"}
    for file in logged:
        text = (
            str(pa.parquet.read_table(file).to_pylist())
            if file.suffix == ".parquet"
            else file.read_text()
        )
        assert "canary" not in text, file
    assert DeltaTable(manifest.uri).version() == 102
