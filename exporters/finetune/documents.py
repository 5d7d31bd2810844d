"""A person's data files, one document at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lazyneuron.engine.errors import CalibrationError

__all__ = ["read_documents"]

_ENCODING = "utf-8-sig"  # with or without a byte order mark
_EXPECTED = '{"text": "…"}, {"image": "FILE"} or {"inputs": {name: list}}'


def read_documents(path: Path, *, whole: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give a file's documents with where each stands.

    JSON Lines (`.jsonl`, `.json`) and `.npz` are as for calibration; every other file is plain text.

    Parameters
    ----------
    whole
        Whether plain text is one document; else each line that is not blank is one.

    Raises
    ------
    CalibrationError
        If it is missing, or not what its name says.
    """
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file")
    if path.suffix == ".npz":
        yield from _arrays(path)
        return
    try:
        with path.open(encoding=_ENCODING) as file:
            if path.suffix in {".jsonl", ".json"}:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        where = f"{path}: line {number}"
                        yield where, _document(line, path.parent, where)
            elif whole:
                yield str(path), {"text": file.read()}
            else:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}: line {number}", {"text": line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: not readable as text ({error}); expected text, JSON Lines or .npz") from error


def _document(line: str, folder: Path, where: str) -> dict[str, Any]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(f"{where}: not JSON ({error})") from error
    if not isinstance(document, dict):
        raise CalibrationError(f"{where}: got {type(document).__name__}; expected {_EXPECTED}")
    if isinstance(document.get("image"), str):
        return {"image": folder / document["image"]}
    if not (isinstance(document.get("text"), str) or isinstance(document.get("inputs"), dict)):
        raise CalibrationError(f"{where}: got keys {sorted(document)}; expected {_EXPECTED}")
    return document


def _arrays(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name not in {"label", "labels"}}
    except Exception as error:  # zipfile's and zlib's own among them
        raise CalibrationError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error
    if not arrays or len({len(array) if array.ndim else 0 for array in arrays.values()}) != 1:
        raise CalibrationError(f"{path}: expected arrays by input name, each with one entry an example")
    for i in range(len(next(iter(arrays.values())))):
        yield f"{path}: example {i}", {"inputs": {name: array[i] for name, array in arrays.items()}}
