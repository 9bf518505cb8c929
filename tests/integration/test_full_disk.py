import os

import pyarrow as pa
import pytest

from baal_ray.driver import run_round
from baal_ray.errors import in_plain_words
from baal_ray.manifest import Manifest
from baal_ray.workspace import batch_uri, manifest_uri
from disks import fill, mounted
from pools import round_config, write_pool

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_round_on_a_full_disk_commits_nothing_and_goes_on_when_there_is_space(tmp_path):
    write_pool(tmp_path, images=20, per_file=20)
    (tmp_path / "workspace").mkdir()
    config = round_config(tmp_path, selection={"k": 5})
    with mounted(tmp_path / "workspace") as disk:
        manifest = Manifest(manifest_uri(config.workspace))
        manifest.acquire(pa.table({"id": ["another"]}), "0")
        fill(f"{disk}/filler", leave=3 * 4096)  # for the plan and two stages, not for the batch
        with pytest.raises(SystemExit) as caught, in_plain_words():
            run_round(config, "1")
        message = str(caught.value)
        assert batch_uri(config.workspace, "1") in message
        assert "Free some space there or add more, then run this again." in message
        assert manifest.rows(round_id="1").num_rows == 0
        assert not [name for name in os.listdir(f"{disk}/rounds/1") if name.endswith(".tmp")]
        os.unlink(f"{disk}/filler")
        assert run_round(config, "1").acquired == 5
        assert manifest.rows(round_id="1").num_rows == 5
