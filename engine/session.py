"""ONNX Runtime with lazyneuron's operator library."""

import os
from pathlib import Path

import onnxruntime as ort

from lazyneuron.engine.errors import ArtifactError, ConfigurationError

__all__ = ["open_session", "operator_library", "usable_cores"]

_LIBRARY = Path(__file__).parent / "lib" / "liblazyneuron_ops.so"


def operator_library() -> Path:
    """Return the path of the operator library, for `onnxruntime.SessionOptions.register_custom_ops_library`.

    Raises
    ------
    ConfigurationError
        If the library was not built.
    """
    if not _LIBRARY.is_file():
        raise ConfigurationError(f"{_LIBRARY}: no such file; install lazyneuron again, or build it with `make setup`")
    return _LIBRARY


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(
    model: Path | bytes, *, threads: int | None = None, sparse: bool = True, spinning: bool = False
) -> ort.InferenceSession:
    """Open an ONNX model in ONNX Runtime on the CPU.

    Parameters
    ----------
    model
        The ONNX file, whose external data lies beside it; or what stands in one.
    threads
        Intra-op threads; None: one a usable core.
    sparse
        Whether to register the operator library.
    spinning
        Whether idle threads spin for a while. With nothing else on the cores a call is some percent quicker; else they
        take the cores from the server, from other models and from other processes.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.log_severity_level = 3  # errors: an artifact's own warnings are of no use to who serves it
    if sparse:
        options.register_custom_ops_library(str(operator_library()))
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        name = "a model in memory" if isinstance(model, bytes) else model
        raise ArtifactError(f"{name}: ONNX Runtime refuses it: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
