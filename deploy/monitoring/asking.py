"""Asking a running Prometheus what a dashboard would ask: its API, and expressions with their variables filled in."""

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["AUTOMATIC", "Api", "AskError", "Panel", "Series", "fill", "label_values", "panels"]

AUTOMATIC = "__auto"
"""A legend that Grafana makes of the labels there are."""

_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


class AskError(Exception):
    """Prometheus cannot be reached, or refuses the question."""


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes
    ----------
    labels
        Without the name.
    points
        Pairs of a time (Unix seconds) and a value, ascending.
    """

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Api:
    """A Prometheus server's HTTP API.

    Attributes
    ----------
    url
        Such as `http://127.0.0.1:9090`.
    """

    url: str

    def ask(self, path: str, **parameters: object) -> Any:  # noqa: ANN401 - JSON, whose shape is the call's
        """Return the data of an answer of `/api/v1/…`.

        Raises
        ------
        AskError
            If there is none; the message has Prometheus's reason.
        """
        query = urllib.parse.urlencode(parameters, doseq=True)
        address = f"{self.url.rstrip('/')}/api/v1/{path}?{query}"
        try:
            # Whoever runs this names the server: file: and the like would be theirs to read anyway.
            with urllib.request.urlopen(address, timeout=30) as answer:  # noqa: S310
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AskError(f"{self.url}: {_reason(error)} (asked {path} {parameters})") from error
        except (OSError, ValueError, KeyError) as error:
            raise AskError(f"{self.url}: no answer of a Prometheus server ({error})") from error

    def now(self, expression: str, time: float | None = None) -> list[Series]:
        """Return an expression's value at a time (Unix seconds), or now; of a range of samples, the samples."""
        asked = {} if time is None else {"time": f"{time:.3f}"}
        data = self.ask("query", query=expression, **asked)
        if data["resultType"] == "scalar":
            return [_series({"metric": {}, "value": data["result"]})]
        return [_series(found) for found in data["result"]]

    def over(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Return an expression's values over a time (Unix seconds), `step` seconds apart."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return [_series(found) for found in self.ask("query_range", query=expression, **times)["result"]]


@dataclass(frozen=True)
class Panel:
    """A panel of a dashboard's JSON.

    Attributes
    ----------
    title, kind, unit
        As Grafana has them.
    place
        `x`, `y`, `w` and `h` on Grafana's grid of 24 columns.
    queries
        Expressions with their legends.
    dashed
        Which of them are drawn dashed, as what others are compared with: counted from 0.
    """

    title: str
    kind: str
    unit: str
    place: dict[str, int]
    queries: list[tuple[str, str]]
    dashed: frozenset[int] = frozenset()


def panels(document: Mapping[str, Any]) -> Iterator[Panel]:
    """Give a dashboard's panels, rows included (kind `row`)."""
    for panel in document["panels"]:
        targets, fields = panel.get("targets", []), panel.get("fieldConfig", {})
        queries = [(target["expr"], target.get("legendFormat", "")) for target in targets]
        dashed = {
            override["matcher"]["options"]
            for override in fields.get("overrides", [])
            if any(changed["id"] == "custom.lineStyle" for changed in override["properties"])
        }
        numbers = frozenset(number for number, target in enumerate(targets) if target["refId"] in dashed)
        unit = fields.get("defaults", {}).get("unit", "")
        yield Panel(panel["title"], panel["type"], unit, panel["gridPos"], queries, numbers)


def fill(expression: str, variables: Mapping[str, str]) -> str:
    """Replace `$name` and `${name}` in an expression, as Grafana does.

    Raises
    ------
    KeyError
        If a variable has no value.
    """
    return _VARIABLE.sub(lambda found: variables[found[1]], expression)


def label_values(api: Api, query: str, variables: Mapping[str, str]) -> list[str]:
    """Return what a dashboard's variable offers: the answer to `label_values(SELECTOR, LABEL)`.

    Raises
    ------
    ValueError
        If the query is not of that form.
    AskError
        If Prometheus does not answer it.
    """
    found = _LABEL_VALUES.fullmatch(query)
    if found is None:
        raise ValueError(f"a variable's query: got {query!r}; expected label_values(SELECTOR, LABEL)")
    values = api.ask(f"label/{found['label']}/values", **{"match[]": fill(found["selector"], variables)})
    return [str(value) for value in values]


def _series(found: dict[str, Any]) -> Series:
    points = found["values"] if "values" in found else [found["value"]]
    labels = {name: value for name, value in found["metric"].items() if name != "__name__"}
    return Series(labels, [(float(when), float(value)) for when, value in points])


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError):
        return f"HTTP status {error.code}"
