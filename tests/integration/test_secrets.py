from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from answering import answering
from baal_ray.driver import run_round
from baal_ray.manifest import Manifest
from baal_ray.manifest.labelled_sets import import_labelled_set
from baal_ray.workspace import manifest_uri
from pools import CLASSES, picture, round_config, write_labelled

pytestmark = pytest.mark.usefixtures("ray_cluster")

SECRET = "c4n4ry"


def content(file):
    """Return the whole content of a file, with Parquet pages decoded."""
    rows = pq.read_table(file).to_pylist() if file.suffix == ".parquet" else ""
    return file.read_bytes().decode("latin-1") + str(rows)


def test_the_signature_of_a_presigned_pool_is_left_nowhere(tmp_path, capfd, caplog):
    (tmp_path / "pool").mkdir()
    with answering(200, picture(0, 1)) as images, answering(403, b"no") as denied:
        places = [images.url] * 12 + [denied.url, "http://127.0.0.1:9", "https://elsewhere"]
        uris = [f"{place}/{n}.png?X-Amz-Signature={SECRET}" for n, place in enumerate(places)]
        uris.append(f"http://ann:{SECRET}@127.0.0.1:9/a.png")
        ids = [f"image-{n}" for n in range(len(uris))]
        pq.write_table(pa.table({"id": ids, "uri": uris}), tmp_path / "pool" / "1.parquet")
        config = round_config(
            tmp_path,
            pool={"roots": [images.url, denied.url, "http://127.0.0.1:9"]},
            selection={"k": 5},
            scoring={"samples": 4, "max_unreadable": 0.5},
        )
        manifest = Manifest(manifest_uri(config.workspace))
        labelled = write_labelled(tmp_path)
        import_labelled_set(manifest, labelled, workspace=config.workspace, classes=CLASSES)
        result = run_round(config, "1")
    assert (result.scored, result.unreadable, result.acquired) == (12, 4, 5)
    written = [file for file in (tmp_path / "workspace").rglob("*") if file.is_file()]
    errors = "".join(map(content, (tmp_path / "workspace" / "scores").rglob("*.parquet")))
    assert "are the right ones" in errors
    assert "pool.roots" in errors
    assert [file for file in written if SECRET in content(file)] == []
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    assert [log for log in logs.rglob("*.*") if log.is_file() and SECRET in content(log)] == []
