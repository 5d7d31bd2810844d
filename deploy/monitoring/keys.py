"""Which keys a dashboard may have: what Grafana does not know it ignores, and so a misspelt setting is lost in silence.

The SDK's models know every key, but reading a document drops what they do not know. So a document is read and written
again, and what is gone was unknown. What the SDK passes on unread is checked here.
"""

import json
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

__all__ = ["UnknownKeyError", "refuse_unknown_keys", "unknown_keys"]

_VARIABLE_QUERY = frozenset({"qryType", "query", "refId"})
"""Of a variable's query to Prometheus: what we use of what Grafana's PrometheusDatasource takes."""


class UnknownKeyError(ValueError):
    """A dashboard has keys that Grafana does not know."""


def refuse_unknown_keys(text: str) -> None:
    """Check the keys of a dashboard's JSON.

    Raises
    ------
    UnknownKeyError
        If Grafana does not know one; the message names all of them by their paths.
    """
    if found := list(unknown_keys(json.loads(text))):
        raise UnknownKeyError(f"unknown keys in a dashboard: {', '.join(found)}; look for misspellings")


def unknown_keys(document: dict[str, Any]) -> Iterator[str]:
    """Give the paths of a dashboard's keys that Grafana does not know, such as `panels[3].options.legendd`."""
    register_default_plugins()
    try:
        read = models.Dashboard.from_json(document)
    except KeyError as error:  # of a few that the SDK goes by
        yield f"something without {error}"
        return
    yield from _lost(document, json.loads(JSONEncoder().encode(read)), "")
    for variable in document.get("templating", {}).get("list", []):
        if isinstance(variable.get("query"), dict):
            yield from _others(variable["query"], _VARIABLE_QUERY, f"templating.list {variable.get('name')}.query")
    for number, panel in enumerate(document.get("panels", [])):
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            for set_to in override.get("properties", []):
                yield from _override(set_to, f"panels[{number}].fieldConfig.overrides {set_to.get('id')}")


def _lost(before: object, after: object, path: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from _lost(value, after[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}".removeprefix(".")
    elif isinstance(before, list) and isinstance(after, list):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _lost(old, new, f"{path}[{number}]")


def _override(set_to: dict[str, Any], path: str) -> Iterator[str]:
    """Check one of an override's settings: its name, and the keys of its value."""
    group, _, name = str(set_to.get("id")).rpartition(".")
    known: type[models.FieldConfig | common.GraphFieldConfig] | None
    known = {"": models.FieldConfig, "custom": common.GraphFieldConfig}.get(group)
    # A model gives only keys that have a value: give it this one.
    if known is None or name not in known.from_json({name: None if name == "custom" else {}}).to_json():
        yield path
    elif isinstance(set_to.get("value"), dict):
        value = known.from_json({name: set_to["value"]}).to_json()
        yield from _lost(set_to["value"], json.loads(JSONEncoder().encode(value))[name], path)


def _others(document: dict[str, Any], known: frozenset[str], path: str) -> Iterator[str]:
    yield from (f"{path}.{key}" for key in document if key not in known)
