"""Tests of pages as people see them: on a phone and on a desktop, in light and in dark mode."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from baal_ray.experiment.page import experiment_page
from baal_ray.report.round_facts import gather
from baal_ray.report.round_page import round_page
from browser import DESKTOP, PHONE, look_at, open_browser
from curves import curves, needed
from rounds_on_disk import label, write_round

SCREENS = [(size, scheme) for size in (PHONE, DESKTOP) for scheme in ("light", "dark")]
LONG = "a_class_whose_name_nobody_ever_thought_of_making_any_shorter " * 2
HOSTILE = "</style><script>document.body.innerHTML = ''</script><img src='http://127.0.0.1:9/x'>"
CLASSES = [HOSTILE, LONG, "猫"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize(("size", "scheme"), SCREENS)
def test_the_page_of_a_round(browser, tmp_path: Path, size, scheme):
    ids = [HOSTILE, LONG * 3, *(f"image-{i:04}" for i in range(100, 170))]
    write_round(tmp_path, "night-0", labels=20, ids=["first"])
    config = write_round(
        tmp_path,
        ids=ids,
        failures=[HOSTILE, LONG.replace(" ", "/")],
        classes=[HOSTILE, LONG, "猫"],
        result={"stability": 0.3},
    )
    label(config, {ids[1]: LONG, ids[2]: HOSTILE})
    page = tmp_path / "report.html"
    page.write_text(round_page(gather(config.workspace, "night-1")))
    assert look_at(browser, page, size, scheme) == []


@pytest.mark.parametrize(("size", "scheme"), SCREENS)
def test_the_page_of_an_experiment(browser, tmp_path: Path, size, scheme):
    rules = [HOSTILE, LONG, "bald", "batch_bald", "epig", "power_bald", "predictive_entropy"]
    rows = [(rule, target, (0.9, 0.8, 1.1)) for rule in rules for target in (0.6, 0.7)]
    table = curves({rule: i / 100 for i, rule in enumerate([*rules, "random"])}, seeds=3)
    page = tmp_path / "report.html"
    page.write_text(experiment_page(table, needed(*rows), {LONG: HOSTILE}, [LONG, HOSTILE]))
    assert look_at(browser, page, size, scheme) == []


def test_faults_are_found(browser, tmp_path: Path):
    # This page has every fault, so the tests above can find one.
    page = tmp_path / "page.html"
    page.write_text(
        "<body style='background: white'><p style='color: #aaa'>pale</p><p style='width: 999px'>"
        "wide</p><img alt='x' src='data:image/png;base64,AAAA'><img src='http://127.0.0.1:9/y'>"
        "<svg viewBox='0 0 900 900' width='300'><text y='90' font-size='9'>tiny</text></svg>"
    )
    found = " ".join(look_at(browser, page, PHONE, "dark"))
    for fault in (
        "sideways",
        "not decoded",
        "text of",
        "contrast 2.3",
        "asks for http",
        "not dark",
    ):
        assert fault in found
