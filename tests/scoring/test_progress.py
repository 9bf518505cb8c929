import logging
import time

import pyarrow as pa
import pytest

from baal_ray.scoring import progress
from baal_ray.scoring.progress import in_words, progress_line, reporting_progress
from baal_ray.storage.parquet import publish_table

SCORED = pa.table({"id": [str(number) for number in range(20)]})


@pytest.mark.parametrize(
    ("scored", "images", "seconds", "line"),
    [
        (0, 1_000_000, 60, "scores: 0 of about 1,000,000 images are on disk"),
        (
            200_000,
            1_000_000,
            250,
            "scores: 200,000 of about 1,000,000 images are on disk, 800 per second, "
            "about 17 min left",
        ),
        (30, 20, 10, "scores: 30 images are on disk, 3 per second"),
    ],
)
def test_a_line_says_how_far_how_fast_and_what_is_left(scored, images, seconds, line):
    assert progress_line(scored, images, seconds) == line


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (11_100, "3 h 5 min")]
)
def test_times_are_in_words(seconds, words):
    assert in_words(seconds) == words


def wait_for(caplog, text):
    until = time.monotonic() + 20
    while text not in caplog.text:
        assert time.monotonic() < until, caplog.text
        time.sleep(0.01)


def test_what_this_run_puts_on_disk_counts_and_nothing_else(tmp_path, caplog):
    caplog.set_level(logging.INFO, progress.__name__)
    folder = str(tmp_path / "scores")
    publish_table(folder, SCORED.slice(0, 7))
    with reporting_progress(folder, 100, every=0.02):
        wait_for(caplog, "scores: 0 of about 100 images")
        publish_table(folder, SCORED.slice(7, 5))
        wait_for(caplog, "scores: 5 of about 100 images")
        publish_table(folder, SCORED.slice(12, 8))
        wait_for(caplog, "scores: 13 of about 100 images")
    told = len(caplog.records)
    time.sleep(0.1)
    assert len(caplog.records) == told


def test_what_goes_wrong_with_telling_ends_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, progress.__name__)
    with reporting_progress(str(tmp_path), 100, every=0.02):
        wait_for(caplog, "scores: 0 of")
        bad = tmp_path / f"{'0' * 64}.parquet"
        bad.write_bytes(b"no parquet")
        wait_for(caplog, "cannot read the progress of scoring")
        bad.unlink()
        publish_table(str(tmp_path), SCORED)
        wait_for(caplog, "scores: 20 of about 100")


def test_in_a_terminal_nothing_is_said(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, progress.__name__)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with reporting_progress(str(tmp_path), 100, every=0.01):
        time.sleep(0.1)
    assert not caplog.records
