import pyarrow as pa
import pytest

from baal_ray import storage
from baal_ray.parquet import publish_table
from baal_ray.scoring import score_files, scored_already
from test_selection import scores


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
    assert scored_already(folder).contains(["a", "b", "c"]).tolist() == [True, False, False]
    assert score_files(folder) == [ours]
    assert strange in caplog.text


def test_files_of_others_are_left_where_they_are_and_not_opened(tmp_path):
    ours = publish_table(str(tmp_path), scores("ab", [0.1, 0.2]))
    for name in (".DS_Store", "._a.parquet", "torn.parquet", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    assert len(scored_already(str(tmp_path))) == 2
    assert score_files(str(tmp_path)) == [ours]
    assert (tmp_path / "torn.parquet").exists()
