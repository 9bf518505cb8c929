"""Tests that the published results of experiments follow from the curves beside them."""

import importlib.util
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pages import text_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks/experiments"
RESULTS = sorted(BENCHMARKS.glob("*/labels_needed.txt"))


@pytest.mark.skipif(not RESULTS, reason="an sdist leaves the results of experiments out")
def test_the_results_of_every_experiment_are_here():
    assert [path.parent.name for path in RESULTS] == [
        "cifar10",
        "cifar100_reduced",
        "cifar10_thousand",
        "mnist",
        "mnist_300",
        "repeated_mnist",
    ]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_published_figures_are_those_of_the_curves(path):
    text = path.read_text()
    table = text.partition("\n\n")[0].splitlines()[1:]
    accuracies = dict.fromkeys(float(line.split()[1]) for line in table)
    curves = pq.read_table(path.with_name("curves.parquet"))
    assert text == f"{experiments().results(curves, [*accuracies])}\n"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_published_pages_say_the_same(path):
    page = text_of(path.with_name("report.html").read_text())
    for verdict in path.read_text().strip().split("\n\n")[1:]:
        assert verdict in page


def experiments():
    """Return the script that ran the experiments."""
    spec = importlib.util.spec_from_file_location("experiments", BENCHMARKS / "experiments.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
