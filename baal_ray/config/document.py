"""Settings files, read as a whole: all faults in a file are reported at once."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from baal_ray import storage
from baal_ray.errors import ConfigError, StorageError
from baal_ray.storage.redaction import redacted


class Section(BaseModel):
    """A group of settings: no unknown keys, no values of another type, no later changes."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # the input may be a password
    )


class Document(Section):
    """A complete settings file."""

    @classmethod
    def from_yaml(cls, path: str) -> Self:
        """Read and check a YAML file, local or at any fsspec URI.

        Raises:
            ConfigError: If the file cannot be read, is not YAML or breaks a rule. The error lists
                every fault.
        """
        source = redacted(path)
        try:
            content = yaml.load(storage.read(path), Loader=_Loader)
        except StorageError as error:
            raise ConfigError(source, [str(error)]) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-02-30
            raise ConfigError(source, [f"not YAML: {_yaml_fault(error)}"]) from error
        if not isinstance(content, dict):
            raise ConfigError(
                source, [f"holds a {type(content).__name__}; it must map settings to values"]
            )
        return cls.from_dict(content, source=source)

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str = "configuration") -> Self:
        """Check a configuration given as nested dictionaries.

        Raises:
            ConfigError: If the configuration breaks a rule. The error lists every fault.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ConfigError(
                source, [_fault(cls, detail) for detail in error.errors()]
            ) from error


class _Loader(yaml.SafeLoader):
    """A loader that reads 1e-3 as a number (YAML 1.1 wants a dot) and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = sorted({key for key in keys if keys.count(key) > 1})
        if doubled:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(doubled)} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _yaml_fault(error: Exception) -> str:
    """Return the fault and its line number, but not the line, which may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error)


def _fault(model: type[BaseModel], detail: ErrorDetails) -> str:
    """Return one fault as thing, value and rule, with a remedy where there is one."""
    where = ".".join(map(str, detail["loc"])) or "configuration"
    match detail["type"]:
        case "extra_forbidden":
            return f"{where} is not a setting{_suggestion(model, detail)}"
        case "missing":
            return f"{where} is missing; it has no default"
        case "secret":
            return f"{where} {detail['msg']}"
    rule = detail["msg"].removeprefix("Value error, ")
    rule = re.sub(r"^Input should be ", "it must be ", rule)
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        rule += "; put it in quotes"
    value = detail["input"]
    if detail["type"] == "value_error" and isinstance(value, dict | BaseModel):
        # The section's own rule, whose message begins with the name of the setting.
        return f"{where}.{rule}" if detail["loc"] else rule
    if detail["loc"][:1] == ("notify",):  # a webhook's URL is a secret
        return f"{where} is not valid; {rule}"
    if isinstance(value, dict):
        return f"{where} has keys {', '.join(map(str, value))}; {rule}"
    return redacted(f"{where} is {_SHORT.repr(value)}; {rule}")


# A few lines of YAML with aliases of aliases can expand to a value whose text fits in no memory.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlist = 20
_SHORT.maxlevel = 2


def _suggestion(model: type[BaseModel], detail: ErrorDetails) -> str:
    *sections, key = (name for name in detail["loc"] if isinstance(name, str))
    known = list(_section(model, sections).model_fields)
    close = difflib.get_close_matches(key, known, n=1)
    return (
        f"; did you mean {close[0]}?"
        if close
        else f"; the settings here are {', '.join(sorted(known))}"
    )


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    for name in path:
        annotation = model.model_fields[name].annotation
        model = next(a for a in (annotation, *get_args(annotation)) if isinstance(a, type))
    return model


def differences(
    planned: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield a sentence for each setting that differs, with section names joined by dots."""
    for key in sorted(planned.keys() | now.keys()):
        before, after = planned.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {before!r} in the plan; it is {after!r} now"
