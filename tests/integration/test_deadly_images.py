"""Tests of images on which processes really die, in decoding tasks and in scoring actors."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from deadly_images import KILLERS, write

SCRIPT = Path(__file__).parents[1] / "support" / "deadly_images.py"


@pytest.mark.timeout(900)  # each death costs the start of a process
def test_images_that_kill_are_found_and_change_no_other_score(tmp_path: Path) -> None:
    # One test covers both kinds, because a cluster takes seconds to start.
    write(tmp_path)
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    scores = {name: read(tmp_path / name) for name in ("all", "harmless")}
    errors = scores["all"].loc[KILLERS, "error"]
    assert errors.str.fullmatch(r"it killed the process \d+ times").all(), errors
    others = scores["all"].drop(index=KILLERS).astype(scores["harmless"].dtypes)
    pd.testing.assert_frame_equal(others, scores["harmless"], check_exact=True)


def read(folder: Path) -> pd.DataFrame:
    return pq.read_table(folder).to_pandas().set_index("id").sort_index()
