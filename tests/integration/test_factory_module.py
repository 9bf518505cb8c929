"""A round with a model whose module lies beside the configuration, run from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pools import round_config, write_labelled, write_pool

BAAL_RAY = [sys.executable, "-m", "baal_ray"]

MODULE = """
from layers_beside import head  # a module beside it, which workers must find too


def network(num_classes):
    return head(num_classes)
"""

LAYERS = """
from baal_ray.model import small_convnet as head
"""


def test_a_module_beside_the_configuration_is_found_by_all_workers(tmp_path: Path):
    write_pool(tmp_path, images=100)
    night = tmp_path / "night"
    night.mkdir()
    (night / "model_beside.py").write_text(MODULE)
    (night / "layers_beside.py").write_text(LAYERS)
    config = round_config(
        tmp_path,
        model={"factory": "model_beside:network", "image_size": 12},
    )
    path = night / "round.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(exclude_unset=True)))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    labelled = write_labelled(tmp_path)
    for command in (
        ["labels", "import", str(path), labelled, "--with-images"],
        ["run", str(path), "--round", "first"],
    ):
        done = subprocess.run(
            [*BAAL_RAY, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "10 acquired by bald" in done.stdout
