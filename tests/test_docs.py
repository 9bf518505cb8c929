"""Tests that the pages agree with the code."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pydantic import BaseModel

import baal_ray.acquisition
import baal_ray.errors
from baal_ray.checkpoint import Description, FitSummary
from baal_ray.cli import main
from baal_ray.config import ModelConfig, RoundConfig
from baal_ray.experiment.config import ExperimentConfig
from baal_ray.experiment.labels_needed import LABELS_NEEDED
from baal_ray.experiment.learning_curve import CURVE
from baal_ray.experiment.run import ExperimentRecord
from baal_ray.image_formats import FORMATS
from baal_ray.manifest import Manifest
from baal_ray.model import small_convnet
from baal_ray.posterior import MCDropout
from baal_ray.score_names import SCORE_COLUMNS, STABILITY_COLUMNS
from baal_ray.scoring.batch_size import BatchSizeTrial
from baal_ray.storage.other_files import OtherFiles
from baal_ray.storage.table_files import DeletedRows
from baal_ray.workspace import manifest_uri
from baal_ray.workspace.records import Fingerprint, FitRecord, Record
from baal_ray.workspace.stage_files import (
    FurtherStage,
    ListedPool,
    PoolFile,
    RoundRecord,
    RoundResult,
    Stability,
)
from baal_ray.workspace.table_schemas import BATCH, MANIFEST, SCORES
from documentation import PAGES, ROOT, blocks, python_blocks
from pools import CLASSES, picture, table

README = PAGES[0].read_text()


def script(path: str) -> ModuleType:
    """Return a script outside the package as a module."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def commands() -> list[list[str]]:
    shown = [block for page in PAGES for block in blocks(page.read_text(), "console")]
    lines = dict.fromkeys("\n".join(shown).splitlines())
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("command", [c for c in commands() if c[0] == "baal-ray"], ids=" ".join)
def test_every_command_is_one(command: list[str]) -> None:
    context, arguments = click.Context(main), command[1:]
    callee: click.Command = main
    while isinstance(callee, click.Group):
        name, callee, arguments = callee.resolve_command(context, arguments)  # type: ignore[assignment]
        context = click.Context(callee, parent=context, info_name=name)
    callee.make_context(callee.name, arguments, parent=context.parent)


def test_every_subcommand_but_its_help_is_shown() -> None:
    for name in main.commands:
        assert f"baal-ray {name}" in README or f"make {name}" in README, name


def test_every_make_target_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands():
        if command[0] == "make":
            assert command[1] in targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        # An sdist leaves the results of experiments out.
        if not (ROOT / "PKG-INFO").exists() or not re.search("benchmarks/experiments/.*/", target):
            assert (page.parent / target).exists(), target


def test_the_configurations_in_the_pages_are_valid() -> None:
    (block,) = blocks(README, "yaml")
    assert RoundConfig.from_dict(yaml.safe_load(block)).selection.k == 1000
    guide = ROOT / "docs" / "guide"
    (block,) = blocks((guide / "getting-started.md").read_text(), "yaml")
    assert RoundConfig.from_dict(yaml.safe_load(block)).model.weights == "DEFAULT"
    (block,) = blocks((guide / "your-model.md").read_text(), "yaml")
    assert ModelConfig.model_validate(yaml.safe_load(block)["model"]).arguments == {"dropout": 0.3}


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    """Return the names that the Python blocks in the pages take for granted."""
    for number in range(6):
        file = tmp_path / "labelled" / CLASSES[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number % 3, number))
    Manifest(manifest_uri(str(tmp_path))).acquire(table(0, 3), "round-1")
    return {
        "model": small_convnet(3).eval(),
        "images_N": torch.rand(4, 3, 12, 12),
        "labelled_folder": tmp_path / "labelled",
        "labelled_parquet": tmp_path / "labelled.parquet",
        "workspace": str(tmp_path),
    }


BLOCKS = python_blocks(with_ray=False)


def run_block(name: str, names: dict[str, Any]) -> None:
    exec(compile(BLOCKS[name], name, "exec"), names)


def test_every_block_of_python_is_run_below() -> None:
    assert set(BLOCKS) == {
        "README-2",
        "formats-1",
        "getting-started-1",
        "your-model-1",
        "your-model-2",
    }


@pytest.mark.parametrize("block", ["README-2", "your-model-2"])
def test_a_block_of_python_draws_posterior_samples(block: str, names: dict[str, Any]) -> None:
    run_block(block, names)
    assert {*SCORE_COLUMNS, *STABILITY_COLUMNS, "predicted"} == set(names["scores"])
    assert all(column.shape == (4,) for column in names["scores"].values())
    if block == "your-model-2":
        assert names["log_probs_N_K_C"].shape == (4, 20, 3)
        third_N_C = names["third"](names["images_N"])
        torch.testing.assert_close(names["log_probs_N_K_C"][:, 2], third_N_C, atol=1e-5, rtol=0)


def test_the_network_in_the_guide_can_be_sampled(names: dict[str, Any]) -> None:
    run_block("your-model-1", names)
    network = names["resnet_with_dropout"](num_classes=3, dropout=0.3)
    scores = MCDropout(network, samples=3).statistics(torch.rand(2, 3, 64, 64))
    assert (scores["bald"] > 0).all()


def test_the_labelled_set_in_the_guide_has_the_columns_of_one(names: dict[str, Any]) -> None:
    run_block("getting-started-1", names)
    written = pq.read_table(names["labelled_parquet"]).to_pylist()
    assert [row["label"] for row in written] == sorted([*CLASSES, *CLASSES])
    assert written[0] == {"id": "left/0.png", "image": picture(0, 0), "label": "left"}


def test_the_manifest_opens_as_the_page_of_formats_says(names: dict[str, Any]) -> None:
    run_block("formats-1", names)
    assert names["manifest"]["id"].tolist() == ["image-0000", "image-0001", "image-0002"]


def test_the_experiment_in_the_docs_is_valid() -> None:
    page = (ROOT / "docs" / "guide" / "experiments.md").read_text()
    (block,) = blocks(page, "yaml")
    assert ExperimentConfig.from_dict(yaml.safe_load(block)).seeds == 5
    for column in (*CURVE.names, *LABELS_NEEDED.names):
        assert f"`{column}`" in page or column in ("rule", "accuracy"), column


def all_records(kind: type[Record] = Record) -> list[type[Record]]:
    below = [each for sub in kind.__subclasses__() for each in all_records(sub)]
    return [kind, *below]


def test_every_field_of_every_record_is_described() -> None:
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text()
    names = {BatchSizeTrial, Description, ExperimentRecord, Fingerprint, FitRecord, RoundRecord}
    assert names <= set(all_records())
    parts: list[type[BaseModel]] = [*all_records(), RoundResult, FurtherStage, Stability]
    for kind in [*parts, ListedPool, PoolFile, DeletedRows, OtherFiles, FitSummary]:
        for name, field in kind.model_fields.items():
            if not field.exclude:
                assert f"`{field.alias or name}`" in formats, (kind, name)


def test_the_image_formats_are_those_that_are_decoded() -> None:
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text()
    rows = [f"| {known.name} | `{'`, `'.join(known.extensions)}` |" for known in FORMATS]
    assert re.findall(r"^(\| \w+ \| `\.[^|]+ \|)", formats, re.MULTILINE) == rows


@pytest.mark.parametrize("table", [SCORES, MANIFEST, BATCH])
def test_every_column_is_described(table: pa.Schema) -> None:
    formats = (ROOT / "docs" / "reference" / "formats.md").read_text()
    for column in table.names:
        assert f"`{column}`" in formats, column


def test_every_path_that_text_mentions_is_there() -> None:
    # This covers pages, comments and docstrings alike, so that a move leaves no stale path behind.
    texts = [*PAGES, ROOT / "benchmarks" / "README.md", *ROOT.glob("*.yaml"), ROOT / "Makefile"]
    for folder in ("baal_ray", "benchmarks", "jobs"):
        texts += [*(ROOT / folder).rglob("*.py"), *(ROOT / folder).rglob("*.yaml")]
    mentioned = re.compile(r"(?<![\w./-])(?:baal_ray|benchmarks|docs|jobs|tests)/[\w/-]+\.\w+")
    stale = {
        f"{text.relative_to(ROOT)}: {path}"
        for text in texts
        for path in mentioned.findall(text.read_text())
        if not (ROOT / path).exists()
    }
    assert not stale


GENERATE = script("docs/generate.py")


@pytest.mark.parametrize("page", GENERATE.PAGES, ids=lambda page: page.name)
def test_a_generated_page_is_what_the_code_says(page: Path) -> None:
    assert page.read_text() == GENERATE.PAGES[page](), "run `make docs`, and commit what it writes"


def test_every_public_name_is_documented_and_exists() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    documented = {}
    for full in re.findall("^::: (.+)$", page, re.MULTILINE):
        module, _, name = full.rpartition(".")
        documented[full] = getattr(importlib.import_module(module), name)
    public = [getattr(baal_ray, name) for name in baal_ray.__all__ if name != "__version__"]
    public += [getattr(baal_ray.acquisition, name) for name in SCORE_COLUMNS]
    ours = vars(baal_ray.errors).items()
    public += [each for name, each in ours if name.endswith("Error") and name[0] != "_"]
    missing = [each for each in public if each not in documented.values()]
    assert not missing
    shown = {
        name for names in re.findall(r"members: \[(.+)\]", page) for name in names.split(", ")
    }
    here = {name for each in documented.values() for name in dir(each)}
    assert shown <= here


ARCHITECTURE = (ROOT / "docs" / "development" / "architecture.md").read_text()


def test_every_folder_and_module_has_its_duty_on_the_page_of_architecture() -> None:
    below = [path for path in (ROOT / "baal_ray").iterdir() if path.name != "__init__.py"]
    names = {path.name for path in below if path.suffix == ".py"}
    names |= {f"{path.name}/" for path in below if (path / "__init__.py").exists()}
    rows = re.findall(r"^\| (`[^|]+) \| [^|]+ \|$", ARCHITECTURE, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`([\w/.]+)`", row)) == sorted(
        names
    )


def test_the_layers_on_the_page_of_architecture_are_those_of_the_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [each["layers"] for each in contracts["contracts"] if each["type"] == "layers"]
    shown = [block.splitlines() for block in blocks(ARCHITECTURE, "")]
    assert [block for block in shown if block in layers] == layers


def test_a_setting_without_a_comment_cannot_be_documented() -> None:
    with pytest.raises(ValueError, match=r"pool\.uri has no comment"):
        GENERATE.comments_of("# Header.\n\n# The pool.\npool:\n  uri: /data\n")


def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    # docs/hooks.py looks for what the site would fetch from another host.
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        check=True,
        cwd=ROOT,
    )
    pages = {page.relative_to(ROOT / "docs") for page in PAGES if "docs" in page.parts}
    assert {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")} == {
        *pages,
        Path("404.md"),
    }
    for path in site.rglob("*.html"):
        assert left_as_markdown(path.read_text()) == [], path.name


def left_as_markdown(html: str) -> list[str]:
    """Return lists, links and tables that only GitHub renders, because mkdocs has other rules."""
    _, _, article = html.partition("<article")
    text = re.sub(r"<(pre|code).*?</\1>", "", article.partition("</article")[0], flags=re.DOTALL)
    return re.findall(r"^ *- \w.*|\]\(.*|\| ---.*|\*\*.*|```.*", re.sub("<[^>]+>", "", text), re.M)


def test_markdown_that_was_not_seen_is_found() -> None:
    assert left_as_markdown("<article><li>one\n- two</li></article>") == ["- two"]
    assert left_as_markdown("<article><p>a - b</p><pre>- c</pre></article>- d") == []


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://elsewhere.org/a.js"></script>',
        '<link rel="stylesheet" href="//elsewhere.org/a.css">',
        '<link href="https://elsewhere.org/a.woff2" as="font" rel="preload">',
        '<img src="a.png" srcset="a.png 1x, https://elsewhere.org/b.png 2x">',
        "<style>@font-face { src: url('https://elsewhere.org/a.woff2') }</style>",
        '<style>@import "https://elsewhere.org/a.css";</style>',
        '<p style="background: url(https://elsewhere.org/a.png)">text</p>',
    ],
)
def test_what_a_page_would_fetch_is_found(html: str) -> None:
    link = '<a href="https://elsewhere.org/">a link</a><link rel="next" href="https://e.org/">'
    hooks = script("docs/hooks.py")
    assert hooks.fetched_by_page(link) == []
    assert any("elsewhere.org" in address for address in hooks.fetched_by_page(link + html))


def test_links_out_of_the_docs_lead_to_the_repository() -> None:
    hooks = script("docs/hooks.py")
    page = ROOT / "docs" / "guide" / "rules.md"
    text = "[a](../../README.md#install) [b](../../benchmarks) [c](experiments.md#x) [d](#y)"
    assert hooks.with_links_to_repository(text, page) == (
        f"[a]({hooks.REPOSITORY}/blob/main/README.md#install) "
        f"[b]({hooks.REPOSITORY}/tree/main/benchmarks) [c](experiments.md#x) [d](#y)"
    )
    with pytest.raises(hooks.PluginError, match=r"nowhere\.txt, which does not exist"):
        hooks.with_links_to_repository("[a](../../nowhere.txt)", page)


def test_the_address_of_the_repository_is_the_same_everywhere() -> None:
    files = [ROOT / "CITATION.cff", *(ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()]
    addresses = {a for file in files for a in re.findall(r"https://\S+", file.read_text())}
    address = script("docs/hooks.py").REPOSITORY
    assert {each for each in addresses if not each.startswith(address)} == set()
    assert address in addresses


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_an_issue_form_asks_for_what_is_needed(form: str) -> None:
    content = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    assert content["name"].lower() == form
    asked = [part for part in content["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked)
    assert asked[0]["validations"]["required"] is True
