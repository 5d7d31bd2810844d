"""The settings in words: the effective ones as TOML with the source of each, and their JSON schema.

`python -m lazyneuron.server.config_print > docs/serve.schema.json` writes the published schema.
"""

import json
import re
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from lazyneuron.server.config import ServerConfig, Settings

__all__ = ["schema", "to_toml"]

_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
_COLUMN = 48  # where comments begin, if the setting leaves room


def to_toml(settings: Settings) -> str:
    """Return the settings as a TOML document that `--config` reads, each with a comment that tells its source.

    A setting without a value is a comment of its own. What a URL has before its host (a user, a password) is not shown.
    """
    plain, tables = [], []
    for name in type(settings.config).model_fields:
        value = getattr(settings.config, name)
        if isinstance(value, BaseModel):
            lines = [
                _line(key, getattr(value, key), settings.sources[f"{name}.{key}"]) for key in type(value).model_fields
            ]
            tables.append("\n".join(["", f"[{name}]", *lines]))
        else:
            plain.append(_line(name, value, settings.sources[name]))
    return "\n".join([*plain, *tables]) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the settings' file."""
    return ServerConfig.model_json_schema()


def _line(key: str, value: Any, source: str) -> str:  # noqa: ANN401  any setting's
    setting = f"# {key} =" if value is None else f"{key} = {_toml(value)}"
    told = "".join(character if character.isprintable() else "?" for character in source)  # a file has any name
    return f"{setting:{_COLUMN}}  # {told}"


def _toml(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_toml(key)} = {_toml(item)}' for key, item in value.items())}}}"
    assert isinstance(value, str | PurePath), f"TOML for {value!r}"
    # JSON's strings are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(_PASSWORD.sub("", str(value)), ensure_ascii=False).replace("\x7f", "\\u007F")


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))  # noqa: T201  writes docs/serve.schema.json
