import logging
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from baal_ray.cli import main
from baal_ray.errors import ConfigError, PoolError, in_plain_words


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
    """The command sets up the root logger."""
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
    """An empty workspace has no rounds, and nothing to be labelled."""
    labels = str(tmp_path / "labels.csv")
    runner = CliRunner()
    assert runner.invoke(main, ["status", config]).exit_code == 0
    exported = runner.invoke(main, ["labels", "export", config, labels])
    assert exported.exit_code == 0, exported.output
    (tmp_path / "labels.csv").write_text("id,label\nnobody,cat\n")
    imported = runner.invoke(main, ["labels", "import", config, labels])
    assert imported.exit_code == 1
    assert "nobody" in imported.output


def test_status_loads_neither_torch_nor_ray(config: str):
    code = (
        "import sys; from baal_ray.cli import main; "
        f"main(['status', {config!r}], standalone_mode=False); "
        "print({'torch', 'ray'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.splitlines()[-1] == "set()"


def wrapped_by_ray() -> Exception:
    """As `RayTaskError` carries it: the error itself is in `cause`."""
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
