"""Settings from a file, the environment and flags, laid over each other for any pydantic schema.

A setting's name is its path in the schema, `batching.max_tokens`. pydantic-settings does the same but for three things
that an operator needs: it passes over a misspelt variable in silence, it cannot be strict with a file and lenient with
the environment (where everything is text), and it forgets where a value came from.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lazyneuron.engine.errors import ConfigurationError

__all__ = ["DEFAULT", "PREFIX", "Layer", "fields", "lay_over", "read_environment", "read_flags", "read_toml"]

PREFIX = "LAZYNEURON_"
DEFAULT = "default"

# Read by the engine and by commands beside the server.
_NOT_SETTINGS = {"LAZYNEURON_CACHE", "LAZYNEURON_COSTS", "LAZYNEURON_ISA"}
# Kubernetes sets these in every pod for each Service, so a Service named `lazyneuron` makes variables with our prefix.
_SERVICE_LINK = re.compile(r".*_SERVICE_(HOST|PORT(_\w+)?)|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True)
class Layer:
    """Values by a setting's name, each with where it was found."""

    values: Mapping[str, tuple[Any, str]]


def fields(schema: type[BaseModel], table: str = "") -> dict[str, FieldInfo]:
    """Return every setting of a schema by name, tables taken apart."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        path = f"{table}{name}"
        if _is_table(field):
            found |= fields(field.annotation, f"{path}.")  # type: ignore[arg-type]
        else:
            found[path] = field
    return found


def read_toml(file: Path, schema: type[BaseModel], option: str = "--config") -> Layer:
    """Return a TOML file's values as they are; `option` is what names the file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read as TOML.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{file}: no such file; {option} takes a TOML file") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: not readable as TOML: {error}") from error
    return Layer({name: (value, str(file)) for name, value in _flat(values, schema)})


def read_environment(environment: Mapping[str, str], schema: type[BaseModel]) -> Layer:
    """Return what variables like `LAZYNEURON_BATCHING__MAX_TOKENS` set; an empty one sets nothing.

    Raises
    ------
    ConfigurationError
        If a variable has our prefix and names no setting, or its text is no value of the setting's type.
    """
    known = fields(schema)
    values: dict[str, tuple[Any, str]] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or not text or _is_foreign(variable, text):
            continue
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        values[name] = (_parsed(name, text, known, variable, schema), variable)
    return Layer(values)


def read_flags(flags: Mapping[str, Any], assignments: tuple[str, ...], schema: type[BaseModel]) -> Layer:
    """Return the flags that were given (not None), and `NAME=VALUE` texts over them.

    Raises
    ------
    ConfigurationError
        As `read_environment`.
    """
    known = fields(schema)
    given = {name: (value, f"--{name.replace('_', '-')}") for name, value in flags.items() if value is not None}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigurationError(f"--set {assignment}: no value; expected NAME=VALUE, as batching.max_tokens=4096")
        source = f"--set {name}"
        given[name] = (_parsed(name, text, known, source, schema), source)
    return Layer(given)


def lay_over(schema: type[BaseModel], *layers: Layer) -> tuple[BaseModel, dict[str, str]]:
    """Return the settings, a later layer over an earlier one, and the source of each by name.

    Raises
    ------
    ConfigurationError
        On the first that is wrong: one line with its source, name and value, and what was expected.
    """
    merged: dict[str, tuple[Any, str]] = {}
    for layer in layers:
        merged |= layer.values
    nested: dict[str, Any] = {}
    for name, (value, _) in merged.items():
        *tables, key = name.split(".")
        into = nested
        for table in tables:
            into = into.setdefault(table, {})
            if not isinstance(into, dict):  # a file that has `batching = 3`, which is told below
                break
        else:
            into[key] = value
    try:
        settings = schema.model_validate(nested)
    except ValidationError as error:
        raise ConfigurationError(_describe(error, merged, schema)) from None
    sources = {name: merged[name][1] if name in merged else DEFAULT for name in fields(schema)}
    return settings, sources


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _flat(values: Mapping[str, Any], schema: type[BaseModel], table: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        field = schema.model_fields.get(name)
        if field is not None and _is_table(field) and isinstance(value, dict):
            yield from _flat(value, field.annotation, f"{table}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{table}{name}", value


def _is_foreign(variable: str, text: str) -> bool:
    if variable in _NOT_SETTINGS or _SERVICE_LINK.fullmatch(variable) is not None:
        return True
    return variable.endswith("_PORT") and _LINK_VALUE.match(text) is not None


def _parsed(name: str, text: str, known: Mapping[str, FieldInfo], source: str, schema: type[BaseModel]) -> Any:  # noqa: ANN401  any setting's type
    field = known.get(name)
    if field is None:
        raise ConfigurationError(f"{source}: {_unknown(name, schema)}")
    adapter: TypeAdapter[Any] = TypeAdapter(field.annotation)  # type: ignore[arg-type] # never None in a schema
    try:
        if get_origin(field.annotation) is dict:
            return adapter.validate_json(text)
        if _is_list(field.annotation):
            items = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
            return adapter.validate_python([item.strip() if isinstance(item, str) else item for item in items])
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise ConfigurationError(
            f"{source}: {name}: {error.errors(include_url=False)[0]['msg']} (got {text!r:.80})"
        ) from None
    except ValueError:
        raise ConfigurationError(f"{source}: {name}: expected a list, as a,b or JSON (got {text!r:.80})") from None


def _is_list(annotation: Any) -> bool:  # noqa: ANN401  an annotation has no type of its own
    return get_origin(annotation) in {tuple, list} or any(get_origin(a) in {tuple, list} for a in get_args(annotation))


def _describe(error: ValidationError, merged: Mapping[str, tuple[Any, str]], schema: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    # An item of a list is found under the list's own name, and a fault of a whole table under any key in it.
    above = (".".join(path[:end]) for end in range(len(path), 0, -1))
    source = next((merged[key][1] for key in above if key in merged), "")
    if not source:
        source = next((where for key, (_, where) in merged.items() if not name or key.startswith(f"{name}.")), "")
    prefix = f"{source}: " if source else ""
    if first["type"] == "extra_forbidden":
        return f"{prefix}{_unknown(name, schema)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # of a table as a whole, and it says which keys
        return f"{prefix}{message}"
    return f"{prefix}{name}: {message} (got {first['input']!r:.80})"


def _unknown(name: str, schema: type[BaseModel]) -> str:
    table, _, _ = name.rpartition(".")
    inner = schema
    for part in filter(None, table.split(".")):
        field = inner.model_fields.get(part)
        if field is None or not _is_table(field):
            break
        inner = field.annotation  # type: ignore[assignment]
    return f"{name}: unknown key; expected one of {', '.join(sorted(inner.model_fields))}"
