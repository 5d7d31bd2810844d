"""Check the dashboards' types against Grafana's own, by TypeScript: `python -m deploy.monitoring.typecheck`.

Each dashboard is written as a literal of the type `Dashboard` of npm's `@grafana/schema`, and each panel's options and
custom field configuration again as literals of their plugin's types, which `Dashboard` leaves open.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["NotAvailableError", "check", "install"]

_ROOT = Path(__file__).parents[2]
_PINNED = _ROOT / "deploy" / "grafana" / "schema"
_BUILT = _ROOT / "build" / "grafana-schema"
_DASHBOARDS = _ROOT / "deploy" / "grafana" / "dashboards"

# The kinds of panels, and what their types' files are called.
_PLUGINS = {
    "bargauge": "BarGauge",
    "heatmap": "Heatmap",
    "stat": "Stat",
    "state-timeline": "StateTimeline",
    "table": "Table",
    "timeseries": "TimeSeries",
}
# A literal "list" is no member of an enum whose member's value is "list": take enums by their values.
_PRELUDE = """\
import type { Dashboard } from '@grafana/schema';
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


class NotAvailableError(Exception):
    """npm or node is not here, or the packages cannot be had."""


def install() -> Path:
    """Install the pinned packages into `build/`, once; return the folder.

    Raises
    ------
    NotAvailableError
        If npm or node is not here, or cannot fetch the packages.
    """
    for program in ("npm", "node"):
        if shutil.which(program) is None:
            raise NotAvailableError(f"{program} is not here: install Node.js 20 or newer, with npm")
    done, lock = _BUILT / "node_modules" / ".lock", (_PINNED / "package-lock.json").read_text()
    if done.is_file() and done.read_text() == lock:
        return _BUILT
    _BUILT.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(_PINNED / name, _BUILT / name)
    # The packages' own scripts are not run.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    ran = subprocess.run(command, cwd=_BUILT, capture_output=True, text=True, check=False)  # noqa: S603
    if ran.returncode != 0:
        raise NotAvailableError(f"npm cannot fetch @grafana/schema and typescript: {ran.stderr.strip()[-300:]}")
    done.write_text(lock)
    return _BUILT


def check(documents: dict[str, dict[str, Any]]) -> str:
    """Return what TypeScript finds wrong with dashboards, by their names; nothing where all is well.

    Raises
    ------
    NotAvailableError
        As `install`.
    ValueError
        If a panel is of a kind whose types are not known here.
    """
    folder = install()
    sources = folder / "checked"
    shutil.rmtree(sources, ignore_errors=True)
    sources.mkdir()
    for name, document in documents.items():
        (sources / f"{name}.ts").write_text(_PRELUDE + "\n".join(_literals(document)) + "\n")
    options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]
    command = [str(folder / "node_modules" / ".bin" / "tsc"), *options, *sorted(map(str, sources.glob("*.ts")))]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def _literals(document: dict[str, Any]) -> Iterator[str]:
    yield f"export const dashboard: Plain<Dashboard> = {json.dumps(document, indent=1)};"
    for number, panel in enumerate(document["panels"]):
        kind = panel.get("type")
        if kind == "row":
            continue
        if kind not in _PLUGINS:
            raise ValueError(f"panel {panel.get('title')!r}: of kind {kind!r}; expected one of {', '.join(_PLUGINS)}")
        name = _PLUGINS[kind]
        types = f"@grafana/schema/dist/esm/raw/composable/{name.lower()}/panelcfg/x/{name}PanelCfg_types.gen"
        parts = {"Options": panel.get("options"), "FieldConfig": panel["fieldConfig"]["defaults"].get("custom")}
        for part, literal in parts.items():
            if literal is not None:
                kept = f"Plain<import('{types}').{part}>"
                yield f"export const panel{number}{part}: {kept} = {json.dumps(literal, indent=1)};"


def main() -> None:
    """Check the dashboards that lie in `deploy/grafana/dashboards`."""
    found = check({path.stem: json.loads(path.read_text()) for path in sorted(_DASHBOARDS.glob("*.json"))})
    if found:
        sys.exit(found)


if __name__ == "__main__":
    try:
        main()
    except NotAvailableError as error:
        sys.exit(str(error))
