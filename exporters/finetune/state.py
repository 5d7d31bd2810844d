"""What an interrupted run goes on from: one file, replaced as a whole."""

import os
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.errors import ConfigurationError

__all__ = ["read_state", "state_file", "write_state"]


def state_file(output: Path) -> Path:
    """Return where the state of a run is kept: beside its output, until that is written."""
    return output.with_name(f"{output.name}.state.pt")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state beside its place and move it there: a kill at any moment leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_state(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any]:
    """Read a state, which must be of a run with the same checkpoint, data and options.

    Raises
    ------
    ConfigurationError
        If it is damaged or of another run.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        before = state["fingerprint"]
    except Exception as error:
        raise ConfigurationError(f"{path}: not the state of a run; delete it to begin anew") from error
    for key, value in fingerprint.items():
        if before.get(key) != value:
            raise ConfigurationError(
                f"{path}: its run had {key} {before.get(key)!r}, and this one has {value!r}; give the same, or delete "
                "it to begin anew"
            )
    return state
