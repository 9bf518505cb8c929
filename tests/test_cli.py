import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from baal_ray.cli import main
from baal_ray.errors import ConfigError, PoolError, in_plain_words
from baal_ray.manifest import Manifest


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "round.yaml"
    path.write_text(
        f"workspace: {tmp_path}/workspace\n"
        "classes: [cat, dog]\n"
        f"pool: {{uri: {tmp_path}/pool}}\n"
        "selection: {k: 2}\n"
    )
    return str(path)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """Restore the root logger, which the command sets up."""
    before = logging.root.level
    yield
    logging.root.setLevel(before)


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_says_what_it_does(command: str):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert main.commands[command].get_short_help_str()


@pytest.mark.parametrize("command", ["run", "submit"])
def test_all_faults_of_a_configuration_end_a_command_at_once(command: str, tmp_path: Path):
    path = tmp_path / "round.yaml"
    path.write_text("workspace: here\nclasses: [cat, dog]\nselection: {k: 0}\n")
    result = CliRunner().invoke(main, [command, str(path), "--round", "1"])
    assert result.exit_code == 1
    for fault in ("workspace is 'here'", "pool is missing", "selection.k is 0"):
        assert fault in result.output


def test_a_round_must_be_named(config: str):
    result = CliRunner().invoke(main, ["run", config])
    assert result.exit_code == 2
    assert "--round" in result.output


def test_labels_come_in_and_show_up(config: str, tmp_path: Path):
    # An empty workspace has no rounds, and nothing to label.
    labels = str(tmp_path / "labels.csv")
    runner = CliRunner()
    assert runner.invoke(main, ["status", config]).exit_code == 0
    exported = runner.invoke(main, ["labels", "export", config, labels])
    assert exported.exit_code == 0, exported.output
    (tmp_path / "labels.csv").write_text("id,label\nnobody,cat\n")
    imported = runner.invoke(main, ["labels", "import", config, labels])
    assert imported.exit_code == 1
    assert "nobody" in imported.output


@pytest.mark.parametrize(
    "arguments", [["release"], ["export", "todo.csv"]], ids=lambda arguments: arguments[0]
)
def test_a_round_that_there_is_not_is_told(config, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    Path("todo.csv").write_text("of yesterday")
    (tmp_path / "workspace" / "rounds" / "2026-11-21").mkdir(parents=True)
    command, *file = arguments
    done = CliRunner().invoke(main, ["labels", command, config, *file, "--round", "2026-11-12"])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert "there is no round '2026-11-12'; there are" in done.output
    assert Path("todo.csv").read_text() == "of yesterday"


def test_names_with_brackets_are_shown_as_they_are(config: str, tmp_path: Path):
    # For Rich, [/old] would end a style that never began.
    workspace = tmp_path / "[team]" / "[/old]"
    Path(config).write_text(
        Path(config).read_text().replace(f"{tmp_path}/workspace", f"{workspace}")
    )
    Manifest(f"{workspace}/manifest").acquire(pa.table({"id": ["a"]}), "first")
    done = CliRunner().invoke(main, ["forget", config, "a"])
    assert done.exit_code == 0, done.output
    assert f"{workspace}/manifest/" in done.output


@pytest.mark.parametrize("arguments", [["forget", "a", "z"], ["prune"]], ids=lambda a: a[0])
def test_nothing_is_removed_without_yes(config: str, tmp_path: Path, arguments: list[str]):
    # The command removes what it showed. A second run finds nothing left to remove.
    workspace = tmp_path / "workspace"
    Manifest(f"{workspace}/manifest").acquire(pa.table({"id": ["a", "b"]}), "first")
    orphan = workspace / "scores" / f".x.{'0' * 16}.tmp"
    orphan.parent.mkdir()
    orphan.write_text("a")
    os.utime(orphan, (0, 0))
    before = sorted(workspace.rglob("*"))
    command, *ids = arguments
    shown = CliRunner().invoke(main, [command, config, *ids])
    assert "othing was removed" in shown.output
    assert sorted(workspace.rglob("*")) == before
    done = CliRunner().invoke(main, [command, config, *ids, "--yes"])
    assert (shown.exit_code, done.exit_code) == (0, 0), done.output
    assert shown.output.splitlines()[0] == done.output.splitlines()[0]
    assert not orphan.exists()
    assert Manifest(f"{workspace}/manifest").ids().to_pylist() == (["b"] if ids else ["a", "b"])
    again = CliRunner().invoke(main, [command, config, *ids, "--yes"])
    assert again.exit_code == 0
    assert "0 of 2 images" in again.output if ids else "0 bytes" in again.output


def test_what_to_forget_or_release_must_be_named(config: str):
    for arguments in (["forget", config], ["labels", "release", config]):
        assert CliRunner().invoke(main, arguments).exit_code == 2


def test_images_are_released_by_their_round_and_rejected_by_a_file(config: str, tmp_path: Path):
    manifest = Manifest(f"{tmp_path}/workspace/manifest")
    manifest.acquire(pa.table({"id": ["a", "b"]}), "first")
    (tmp_path / "workspace" / "rounds" / "first").mkdir(parents=True)
    (tmp_path / "unusable.csv").write_text("id\na\n")
    runner = CliRunner()
    rejected = runner.invoke(main, ["labels", "reject", config, f"{tmp_path}/unusable.csv"])
    assert rejected.output.startswith("1 images rejected")
    released = runner.invoke(main, ["labels", "release", config, "--round", "first"])
    assert released.output.startswith("1 images released")
    assert manifest.rows()["status"].to_pylist() == ["rejected", "released"]


@pytest.mark.parametrize("arguments", [["status"], ["prune"], ["forget", "a"]], ids=lambda a: a[0])
def test_bookkeeping_loads_neither_torch_nor_ray(config: str, arguments: list[str]):
    command, *ids = arguments
    code = (
        "import sys; from baal_ray.cli import main; "
        f"main({[command, config, *ids]!r}, standalone_mode=False); "
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1] == "set()"


def wrapped_by_ray() -> Exception:
    """Return an error as `RayTaskError` carries it: the error itself is in `cause`."""
    error = RuntimeError("a task failed, with a long traceback")
    error.cause = PoolError("no column `image`")
    return error


def chained() -> Exception:
    error = RuntimeError("the stage failed")
    error.__cause__ = wrapped_by_ray()
    return error


@pytest.mark.parametrize("error", [PoolError("no column `image`"), wrapped_by_ray(), chained()])
def test_our_error_is_told_in_plain_words_wherever_it_hides(error: Exception):
    with pytest.raises(SystemExit) as ended, in_plain_words():
        raise error
    assert ended.value.code == "Error: no column `image`"


def test_what_is_not_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), in_plain_words():
        _ = 1 / 0


def test_all_faults_of_one_error_are_told():
    with pytest.raises(SystemExit, match=r"(?s)a\.yaml:.*- one.*- two"), in_plain_words():
        raise ConfigError("a.yaml", ["one", "two"])


def test_an_import_says_in_words_how_many_labels_there_were(config: str, tmp_path: Path) -> None:
    manifest = Manifest(f"{tmp_path}/workspace/manifest")
    manifest.acquire(pa.table({"id": ["a", "b", "c"]}), "night")
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\na,cat\nb,dog\nc,\nz,cat\n")
    done = CliRunner().invoke(main, ["labels", "import", config, str(labels), "--skip-unknown"])
    assert done.output.splitlines()[-1] == (
        "2 labels imported, 0 unchanged, 1 unknown ids skipped, 1 rows without a label"
    )


FORGED = "x\x1b[2Jy\n2026-11-28 09:00:00,000 INFO all is well"


def test_what_strangers_name_reaches_the_terminal_escaped(config: str, tmp_path: Path):
    file = tmp_path / "labels.csv"
    header = FORGED.replace("\n", "\n")
    file.write_text(f'id,"{header}"\na,cat\n')
    result = CliRunner().invoke(main, ["labels", "import", config, str(file)])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert r"x\x1b[2Jy" in result.output
    assert not any(line.startswith("2026-11-28 09") for line in result.output.splitlines())


def test_tables_and_log_lines_are_escaped_too(tmp_path: Path):
    script = (
        "import logging, sys\n"
        "from baal_ray.cli import _console, main\n"
        "from click.testing import CliRunner\n"
        "from rich.table import Table\n"
        "try:\n    main(['status'])\nexcept SystemExit:\n    pass\n"
        "table = Table('class')\ntable.add_row(sys.argv[1])\n_console().print(table)\n"
        "logging.warning('pool: %s', sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, FORGED], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b[2J" not in done.stdout + done.stderr
    assert r"x\x1b[2Jy" in done.stdout
    assert r"WARNING pool: x\x1b[2Jy" in done.stderr
    assert "\n2026-11-28 09:00" not in done.stderr
