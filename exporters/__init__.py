"""checkpoint -> dense ONNX -> MLP blocks -> calibration -> plan -> sparse artifact and report."""

import importlib
from typing import TYPE_CHECKING, Any

from lazyneuron.engine.errors import ConfigurationError

if TYPE_CHECKING:
    from lazyneuron.exporters.api import export, inspect
    from lazyneuron.exporters.bench.artifact import bench_artifact
    from lazyneuron.exporters.bench.operators import bench_operators
    from lazyneuron.exporters.evaluation.api import evaluate
    from lazyneuron.exporters.evaluation.report import EvaluationReport
    from lazyneuron.exporters.reports import ExportReport, SparsityReport
    from lazyneuron.exporters.settings import ExportSettings

__all__ = [
    "EvaluationReport",
    "ExportReport",
    "ExportSettings",
    "SparsityReport",
    "bench_artifact",
    "bench_operators",
    "evaluate",
    "export",
    "inspect",
]

_HOMES = {
    "EvaluationReport": "evaluation.report",
    "ExportReport": "reports",
    "ExportSettings": "settings",
    "SparsityReport": "reports",
    "bench_artifact": "bench.artifact",
    "bench_operators": "bench.operators",
    "evaluate": "evaluation.api",
    "export": "api",
    "inspect": "api",
}
_EXTRA = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "jinja2", "matplotlib")


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attributes have any type)
    """Import on first use: a serving install has none of the libraries that exporting needs."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        work = "measuring" if name.startswith(("bench_", "evaluate")) else "exporting"
        raise ConfigurationError(f"{work} needs {error.name}: pip install 'lazyneuron[export]'") from error
