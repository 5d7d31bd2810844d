"""Where costs are kept, and which are taken.

One file a machine: `$LAZYNEURON_COSTS`, or `lazyneuron/costs.json` in the user's cache folder (`$XDG_CACHE_HOME`, else
`~/.cache`). Without one the costs that come with lazyneuron are taken, of the nearest instruction set. In the place
of a file `cuda:NAME` stands for the roofline of a GPU.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lazyneuron.engine.cost import COST_FORMAT, CostModel
from lazyneuron.engine.documents import read_document, write_text
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import cache_folder, this_machine

__all__ = [
    "COSTS_VARIABLE",
    "Costs",
    "costs_path",
    "is_gpu",
    "load_costs",
    "read_costs",
    "shipped_costs",
    "write_costs",
]

COSTS_VARIABLE = "LAZYNEURON_COSTS"
_SHIPPED = Path(__file__).parent / "costs"
_NEAREST = {"avx512vnni": "avx512vnni", "avx512": "avx2", "avx2": "avx2", "neon": "avx2", "sse2": "avx2"}
"""Which of the shipped measurements stands for an instruction set."""
_MEASURE = "measure this machine with `lazyneuron bench --operators`"


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs and where they are from.

    Attributes
    ----------
    model
        The costs.
    origin
        In a sentence, with a warning where they are another machine's.
    own
        Whether they were measured on this machine with these versions.
    """

    model: CostModel
    origin: str
    own: bool


def costs_path(path: Path | None = None) -> Path:
    """Return the costs' file: the one given, that of the environment, or the one in the user's cache folder."""
    if path is not None:
        return path
    if named := os.environ.get(COSTS_VARIABLE):
        return Path(named)
    return cache_folder() / "costs.json"


def load_costs(path: Path | None = None) -> Costs:
    """Return the costs to plan with.

    Parameters
    ----------
    path
        A file that a person names, which is taken wherever it was measured, or `cuda:` with a GPU's name for what its
        data sheet allows; None: the environment's, else the one in the cache folder if it is of this machine and these
        versions, else those that come with lazyneuron.

    Raises
    ------
    ConfigurationError
        If a named file is missing, a file is damaged, or there is no such GPU.
    """
    named = path is not None or bool(os.environ.get(COSTS_VARIABLE))
    file = costs_path(path)
    if is_gpu(file):
        return _roofline(file)
    here = this_machine()
    if not named and not file.is_file():
        return _shipped(f"{file} is not there")
    costs = read_costs(file)
    if not costs.measured:
        return Costs(costs, f"Costs from {file}, {_unmeasured(costs)}.", own=False)
    unlike = costs.machine.differences(here)
    if unlike is None:
        return Costs(costs, f"Costs measured on this machine, {_threads(costs)} ({file}).", own=True)
    if named:
        return Costs(costs, f"Costs from {file}, which are not of this machine: {unlike}.", own=False)
    return _shipped(f"{file} is not of this machine: {unlike}")


def shipped_costs(name: str) -> Path:
    """Return the file of the costs that come with lazyneuron for an instruction set."""
    return _SHIPPED / f"{name}.json"


def is_gpu(path: Path) -> bool:
    """Say whether `cuda:` and a GPU's name stand where a file of costs would."""
    return str(path).startswith("cuda:")


def _roofline(path: Path) -> Costs:
    from lazyneuron.engine.gpu.roofline_costs import roofline_costs

    costs = roofline_costs(str(path))
    return Costs(costs, f"Costs {_unmeasured(costs)}.", own=False)


def _unmeasured(costs: CostModel) -> str:
    return f"not measured: the least times that the data sheet of {costs.machine.cpu} allows (docs/gpu-roofline.md)"


def _shipped(why: str) -> Costs:
    costs = read_costs(shipped_costs(_NEAREST.get(this_machine().instruction_set, "avx2")))
    origin = f"Costs that come with lazyneuron, {_threads(costs)} of {costs.machine}, since {why}; {_MEASURE}."
    return Costs(costs, origin, own=False)


def _threads(costs: CostModel) -> str:
    return "on one thread" if costs.threads == 1 else f"on {costs.threads} threads"


def read_costs(path: Path) -> CostModel:
    """Read and check a file of costs.

    Raises
    ------
    ConfigurationError
        If the file is missing, is not JSON, does not fit the schema or has another format version.
    """
    hint = f"; {_MEASURE}"
    return read_document(
        path, CostModel, COST_FORMAT, ConfigurationError, what="costs", missing=_MEASURE, unreadable=hint, hint=hint
    )


def write_costs(costs: CostModel, path: Path) -> None:
    """Write costs beside their place and move them there.

    Raises
    ------
    ConfigurationError
        If the file cannot be written.
    """
    lines = ",\n".join(curve.model_dump_json() for curve in costs.curves)
    head = json.dumps(costs.model_dump(exclude={"curves"}))
    text = f'{head[:-1]}, "curves": [\n{lines}\n]}}\n'  # a curve a line: changes can be read
    try:
        write_text(path, text)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot write the costs: {error.strerror or error}") from error
