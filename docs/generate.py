"""Write the pages of reference that follow from the code: `python docs/generate.py`.

The commands come from click. The settings come from the models that check them and from the
comments of jobs/nightly.yaml. tests/test_docs.py fails if a page is not what this would write.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin, get_type_hints

import click
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from baal_ray.cli import main
from baal_ray.config import Location, RoundConfig

ROOT = Path(__file__).parents[1]

_LOCATION = "absolute path or URI"

_GENERATED = "<!-- Written by docs/generate.py: change the {source}, then run `make docs`. -->\n"


def cli() -> str:
    """Return the page of commands."""
    intro = [
        "# Commands",
        "",
        _GENERATED.format(source="docstrings and options in baal_ray/cli.py"),
        "Every command prints this text with `--help`. If one fails, its exit code is not 0.",
        "",
        "`CONFIG` is a YAML file, local or at a URI, with the [settings of a round]"
        "(configuration.md). For `baal-ray experiment` it has the settings of "
        "[an experiment](../../jobs/experiment.yaml).",
        "",
    ]
    return "\n".join([*intro, *_commands(main, click.Context(main, info_name="baal-ray"))])


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _commands(command, below)
        else:
            yield _command(command, below)


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## {context.command_path}", "", "```", usage, "```", ""]
    lines += [_as_markdown(command.help or ""), ""]
    records = [
        record
        for parameter in command.get_params(context)
        if "--help" not in parameter.opts
        and (record := parameter.get_help_record(context))
        and record[1]
    ]
    if records:
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{option}` | {_cell(meaning)} |" for option, meaning in records]
        lines.append("")
    return "\n".join(lines)


def _as_markdown(help_text: str) -> str:
    """Return the help of a command without the line breaks of its source."""
    paragraphs = inspect.cleandoc(help_text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def configuration() -> str:
    """Return the page of settings."""
    header, comments = comments_of((ROOT / "jobs" / "nightly.yaml").read_text())
    lines = [
        "# Settings of a round",
        "",
        _GENERATED.format(
            source="models in baal_ray/config/ or the comments in jobs/nightly.yaml"
        ),
        "[jobs/nightly.yaml](../../jobs/nightly.yaml) has the same settings as a file to copy, "
        "and [jobs/experiment.yaml](../../jobs/experiment.yaml) has those of an experiment.",
        "",
        header,
        "",
        *_settings(RoundConfig, "", comments),
    ]
    return "\n".join(lines)


def _settings(model: type[BaseModel], prefix: str, comments: dict[str, str]) -> Iterator[str]:
    """Yield the lines about a section's settings, in the order of jobs/nightly.yaml."""
    hints = get_type_hints(model, include_extras=True)
    for name in sorted(model.model_fields, key=lambda name: [*comments].index(prefix + name)):
        full, field = prefix + name, model.model_fields[name]
        heading = [f"{'#' * (2 + full.count('.'))} {full}", ""]
        if _is_section(field.annotation):
            yield from [*heading, comments[full], ""]
            yield from _settings(field.annotation, f"{full}.", comments)
        else:
            about = f"*{_described(hints[name])}*; {_default(field)}"
            yield from [*heading, about, "", comments[full], ""]


def _is_section(hint: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    return f"default: `{value if isinstance(value, str) else json.dumps(value)}`"


_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_PLURALS = {
    _LOCATION: "absolute paths or URIs",
    "whole number": "whole numbers",
    "number": "numbers",
    "text": "texts",
}


def _described(hint: Any) -> str:
    """Return the values that a setting allows, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        if all(mark in hint.__metadata__ for mark in Location.__metadata__):
            return _LOCATION
        return ", ".join([_described(arguments[0]), *_rules(hint.__metadata__)])
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        kinds = [_described(argument) for argument in arguments if argument is not NoneType]
        return ", or ".join([*kinds, "null"])
    if origin is list:
        kind, *rules = _described(arguments[0]).split(", ", 1)
        if _is_section(arguments[0]):
            return f"list of {_described(arguments[0])}"
        return ", each ".join([f"list of {_PLURALS[kind]}", *rules])
    if origin is dict:
        return "mapping"
    if _is_section(hint):
        return "{" + ", ".join(hint.model_fields) + "}"
    return _TYPES[hint]


def _rules(marks: Iterable[Any]) -> Iterator[str]:
    """Yield the limits of a setting's value in words."""
    for mark in marks:
        for rule in mark.metadata if isinstance(mark, FieldInfo) else [mark]:
            match rule:
                case Ge(ge=limit):
                    yield f"at least {limit}"
                case Gt(gt=limit):
                    yield f"more than {limit}"
                case Le(le=limit):
                    yield f"at most {limit}"
                case Lt(lt=limit):
                    yield f"less than {limit}"
                case MinLen(min_length=least):
                    yield f"at least {least} of them"
                case _ if pattern := getattr(rule, "pattern", None):
                    yield f"beginning with `{pattern.removeprefix('^')}`"


def comments_of(yaml_text: str) -> tuple[str, dict[str, str]]:
    """Return the last paragraph of a YAML file's header, and the comment above each key.

    Raises:
        ValueError: If a key has no comment above it.
    """
    header, _, rest = yaml_text.partition("\n\n")
    found: dict[str, str] = {}
    path: list[str] = []
    above: list[str] = []
    for line in rest.splitlines():
        comment = re.fullmatch(r" *# ?(.*)", line)
        key = re.match(r"( *)(\w+):", line)
        if comment:
            above.append(comment[1])
        elif key:
            path = [*path[: len(key[1]) // 2], key[2]]
            name = ".".join(path)
            if not above:
                raise ValueError(f"{name} has no comment above it in jobs/nightly.yaml")
            found[name], above = _comment_as_markdown(above), []
    last = [re.sub("^# ?", "", line) for line in header.split("\n#\n")[-1].splitlines()]
    return _comment_as_markdown(last), found


def _comment_as_markdown(lines: list[str]) -> str:
    """Return a comment as Markdown: indented lines as a list, paths as links."""
    paragraphs = [""]
    for line in lines:
        indent, text = len(line) - len(line.lstrip()), line.strip()
        if indent == 2:
            paragraphs.append(f"- `{text[2:]}`" if text.startswith("- ") else f"- {text}")
        elif indent == 0 and paragraphs[-1].startswith("- "):
            paragraphs.append(text)
        else:
            paragraphs[-1] = f"{paragraphs[-1]} {text}".strip()
    together = re.sub(r"^(- .*)\n\n(?=- )", r"\1\n", "\n\n".join(paragraphs), flags=re.MULTILINE)
    return re.sub(r"\b(docs|benchmarks|jobs)/[\w/-]+\.\w+", _link, together)


def _link(path: re.Match[str]) -> str:
    return f"[{path[0].rsplit('/', 1)[-1]}](../../{path[0]})".replace("../../docs/", "../")


PAGES: dict[Path, Callable[[], str]] = {
    ROOT / "docs" / "reference" / "cli.md": cli,
    ROOT / "docs" / "reference" / "configuration.md": configuration,
}

if __name__ == "__main__":
    for page, content in PAGES.items():
        page.write_text(content())
