import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.selection import top_k
from baal_ray.selection.ranking import Ranking
from baal_ray.storage.parquet import publish_table
from baal_ray.workspace.scores import most_frequent_error, score_files, scored_already
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE, FINGERPRINT
from score_tables import scores


@pytest.mark.parametrize(
    "data", [b"", b"PAR1", None], ids=["empty", "a beginning", "a batch, not scores"]
)
def test_a_file_that_holds_no_scores_is_deleted_though_its_name_is_right(tmp_path, caplog, data):
    folder = str(tmp_path)
    ours = publish_table(folder, scores("ab", [0.1, 0.2], error=pa.array([None, "torn"])))
    if data is None:
        strange = publish_table(folder, pa.table({"id": ["c"], "rank": [1]}))
    else:
        strange = storage.publish_by_sha256(folder, data, ".parquet")
    assert scored_already(folder).ids.contains(["a", "b", "c"]).tolist() == [True, False, False]
    assert scored_already(folder).files == score_files(folder) == [ours]
    assert strange in caplog.text


def test_files_of_others_are_left_where_they_are_and_not_opened(tmp_path):
    ours = publish_table(str(tmp_path), scores("ab", [0.1, 0.2]))
    for name in (".DS_Store", "._a.parquet", "torn.parquet", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    assert len(scored_already(str(tmp_path)).ids) == 2
    assert score_files(str(tmp_path)) == [ours]
    assert (tmp_path / "torn.parquet").exists()


def test_scores_of_another_model_count_for_nothing_and_stay_where_they_are(tmp_path, caplog):
    # This happens if folders were copied into each other by hand.
    folders = [f"{tmp_path}/{digit * 32}" for digit in "ab"]
    for folder, ids in zip(folders, ("cd", "ef"), strict=True):
        metadata = {FINGERPRINT: folder[-32:]}
        publish_table(folder, scores(ids, [0.1, 0.2]).replace_schema_metadata(metadata))
    (foreign,) = score_files(folders[0])
    storage.publish(f"{folders[1]}/{foreign[-72:].split('/')[-1]}", storage.read(foreign))
    found = scored_already(folders[1]).ids.contains(list("cdef"))
    assert found.tolist() == [False, False, True, True]
    assert sorted(top_k(folders[1], 9)["id"].to_pylist()) == ["e", "f"]
    assert Ranking("bald").count(score_files(folders[1])) == 2
    assert len(score_files(folders[1])) == 2
    assert len(scored_already(folders[1]).files) == 1
    assert "scores for a different fingerprint" in caplog.text
    elsewhere = [storage.join(str(tmp_path), "mine", foreign.split("/")[-1])]
    storage.publish(elsewhere[0], storage.read(foreign))
    assert len(top_k(elsewhere, 9)) == 2  # who copies files to look at them may


def test_the_most_frequent_error_is_that_of_most_images(tmp_path):
    folder = str(tmp_path)
    assert most_frequent_error(folder) is None
    publish_table(folder, scores("abc", [0.1, 0.2, 0.3], error=pa.array([None, "torn", "null"])))
    errors = [*[EVALUATION_IMAGE] * 3, "torn"]
    publish_table(folder, scores("defg", [0.1] * 4, error=pa.array(errors)))
    assert most_frequent_error(folder) == "torn"
