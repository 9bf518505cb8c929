import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake

from baal_ray.operations.doctor import examine
from pools import round_config, table, write_labelled


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")


def examined(folder, **sections):
    path = folder / "round.yaml"
    config = round_config(folder, **sections)
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    return {finding.check: (finding.outcome, finding.text) for finding in examine(str(path))}


def outcomes(found, outcome):
    return [check for check, (its, _) in found.items() if its == outcome]


def test_what_needs_no_cluster_is_checked_without_one(tmp_path):
    found = examined(tmp_path, training={"evaluation_set": write_labelled(tmp_path)})
    assert outcomes(found, "failed") == ["Ray"]
    assert "RAY_ADDRESS=127.0.0.1:9" in found["Ray"][1]
    assert outcomes(found, "unknown") == ["pool", "cluster", "nodes", "dashboard"]
    assert found["dashboard"][1] == "not checked, because it needs: Ray"
    assert found["evaluation set"][1] == (
        "30 images of 3 classes; 0 of 16 sampled cannot be decoded"
    )
    assert found["manifest"][1] == "there is none yet; the first commit creates it"
    assert not list((tmp_path / "workspace").iterdir())


def test_all_faults_of_a_configuration_and_what_they_hide(tmp_path):
    (tmp_path / "round.yaml").write_text("workspace: here\n")
    found = {finding.check: finding for finding in examine(str(tmp_path / "round.yaml"))}
    for fault in ("workspace is 'here'", "classes is missing"):
        assert fault in found["configuration"].text
    assert found["nodes"].text == "not checked, because it needs: configuration, Ray, workspace"
    assert len(found) == 13
    assert [f.outcome for f in found.values()] == ["failed", "failed", *["unknown"] * 11]


def test_a_workspace_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = examined(tmp_path, workspace=str(tmp_path / "file"))
    assert outcomes(found, "failed") == ["Ray", "workspace"]
    assert "cannot be created" in found["workspace"][1]
    assert found["racing creates"][1] == "not checked, because it needs: workspace"


def test_a_manifest_of_something_else_and_no_evaluation_set(tmp_path):
    write_deltalake(tmp_path / "workspace" / "manifest", pa.table({"id": ["a"]}))
    absent = str(tmp_path / "absent.parquet")
    found = examined(tmp_path, training={"evaluation_set": absent})
    assert outcomes(found, "failed") == ["Ray", "manifest", "evaluation set"]
    assert "is a Delta table but not a manifest" in found["manifest"][1]
    assert absent in found["evaluation set"][1]


def test_what_breaks_without_an_error_of_ours_is_told_too(tmp_path, monkeypatch):
    # Examples are a fault in the store's client, or in baal_ray itself.
    monkeypatch.setattr("baal_ray.operations.doctor.check_model", lambda *_, **__: 1 / 0)
    found = examined(tmp_path)
    assert found["model"] == ("failed", "ZeroDivisionError: division by zero")
    assert found["evaluation set"][0] == "ok"


def test_an_evaluation_set_is_checked_by_its_columns_and_a_sample(tmp_path):
    rows = table(0, 20)
    sets = {
        "columns": rows.drop_columns(["image", "id"]).append_column("id", pa.array(range(20))),
        "images": rows.set_column(1, "image", [[b"no image"] * 20]),
    }
    told = {}
    for name, content in sets.items():
        pq.write_table(content, tmp_path / f"{name}.parquet")
        training = {"evaluation_set": str(tmp_path / f"{name}.parquet")}
        found = examined(tmp_path, training=training)
        assert outcomes(found, "failed") == ["Ray", "evaluation set"]
        told[name] = found["evaluation set"][1]
    assert "has no column `image`" in told["columns"]
    assert (
        "a column `id` of type int64; it must be string. Set pool.integer_ids" in told["columns"]
    )
    assert "16 of 16 sampled cannot be decoded, such as 'image-0000': 8 bytes" in told["images"]
