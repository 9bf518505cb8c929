"""Tests of the page that a real round writes, and of the one that the command makes of it."""

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from baal_ray import storage
from baal_ray.cli import main
from baal_ray.config import RoundConfig
from baal_ray.driver import RoundResult
from baal_ray.image_formats import NAMES
from baal_ray.workspace import report_uri
from browser import DESKTOP, PHONE, look_at, open_browser
from pages import faults_of, text_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def config(first_round: tuple[RoundConfig, RoundResult]) -> RoundConfig:
    """A workspace with one round, of a pool in which two images are unreadable."""
    return first_round[0]


def test_a_round_leaves_a_page(config: RoundConfig) -> None:
    page = storage.read(report_uri(config.workspace, "2026-11-22")).decode()
    text = text_of(page)
    assert faults_of(page) == []
    assert "10 of 302 images were acquired by bald" in text
    assert "2 images of the pool are unreadable" in text
    assert f"… bytes, empty; an image must be {NAMES}" in text
    assert page.count("<img") == 10


def test_the_command_makes_the_page_again_and_people_can_read_it(
    config: RoundConfig, tmp_path: Path
) -> None:
    settings, page = tmp_path / "night.yaml", tmp_path / "page.html"
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"notify"})))
    command = ["report", str(settings), "--round", "2026-11-22", "--output", str(page)]
    done = CliRunner().invoke(main, command)
    assert done.output.splitlines()[-1] == f"{page} written"
    assert page.read_text() == storage.read(report_uri(config.workspace, "2026-11-22")).decode()
    assert faults_of(page.read_text()) == []
    assert page.stat().st_size < 500_000
    with open_browser() as browser:
        for size in (PHONE, DESKTOP):
            for scheme in ("light", "dark"):
                assert look_at(browser, page, size, scheme) == [], (size, scheme)
