"""The compiled kernels: their types, tile sizes, grids and launch parameters, in one place.

The build, the Python driver and the tests read this; ``compiled/kernels.txt`` carries it to the operator library.
"""

import dataclasses
from collections.abc import Mapping

# A kernel's weights, as Triton names their type.
WEIGHT_TYPES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "i8"}

# The flags' bits; the kernels' own names of them are in kernels/common.py, and a test compares the two.
FLAGS = {
    "budget": 1,
    "bias": 2,
    "down_bias": 4,
    "down_scale": 8,
    "scale": 16,
    "shift": 32,
    "stretch": 64,
    "draw": 128,
    "index": 256,
    "factor": 512,
    "by_magnitude": 1024,
    "gate_mode": 2048,
    "partial": 4096,
}
# The numbers of the C++ enumeration Activation.
ACTIVATIONS = ("relu", "relu2", "gelu", "gelu_tanh", "silu", "identity")

POISONED, SKIPPED = -1, -2
# `down` adds up a row in so many segments: launched with 1 split, or with this many and then `reduce_down`.
SEGMENTS = 8

_FLOATS = {"underflow", "largest_norm", "shift_norm", "widest", "threshold", "score_threshold"}
_BYTES = {"codes", "neuron_codes", "mask"}
_INTEGERS = {"dense", "index", "found", "kept", "counts", "active", "candidates", "union_index", "union_count"}
_SIZES = {"rows", "neurons", "depth", "columns", "code_stride", "splits", "top_k", "activation", "flags"}


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One kernel as it is compiled.

    Attributes
    ----------
    name : str
        The compiled file's, ``KERNEL`` or ``KERNEL.VARIANT``, e.g. ``project.f16``.
    kernel : str
        The function in ``kernels``, in the module ``module``.
    parameters : tuple of str
        In order; ``weights`` is of the type ``weights``.
    constants : mapping
        Compile-time constants, the tile sizes among them.
    grid : tuple of three str
        Words of the table: 1, rows, row_tiles, neuron_tiles, column_tiles, splits.
    warps, stages : int
    weights : str, optional
        A key of ``WEIGHT_TYPES``.
    """

    name: str
    module: str
    kernel: str
    parameters: tuple[str, ...]
    constants: Mapping[str, int]
    grid: tuple[str, str, str]
    warps: int
    stages: int = 3
    weights: str | None = None

    def signature(self) -> dict[str, str]:
        """Each parameter's type, as Triton writes it."""
        return {name: self._type(name) for name in self.parameters}

    def _type(self, name: str) -> str:
        if name in _FLOATS:
            return "fp32"
        if name in _SIZES:
            return "i32"
        if name == "weights" and self.weights is not None:
            return "*" + WEIGHT_TYPES[self.weights]
        return "*i8" if name in _BYTES else "*i32" if name in _INTEGERS else "*fp32"

    def tile(self, name: str) -> int:
        """Return a tile size, BLOCK_ROWS to BLOCK_COLUMNS; 0 where the kernel has none."""
        return self.constants.get(f"BLOCK_{name}", 0)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_QUANTIZE = _words(
    "x budget shift stretch draw codes inverse norm residual dense rows depth code_stride flags "
    "largest_norm shift_norm widest underflow"
)
_SCREEN = _words("codes neuron_codes constant spread size inverse norm residual dense mask rows neurons code_stride")
_SCORED = _words("scores x budget index factor found rows neurons depth activation score_threshold flags")
_PROJECT = _words("x weights scale bias index found values rows neurons depth flags")
_SELECT = _words(
    "values factor index found bias down_scale budget kept coefficient counts active candidates "
    "rows neurons top_k activation threshold flags"
)
_DOWN = _words("kept coefficient counts weights down_bias y rows neurons columns splits flags")
_UNION = _words("kept coefficient counts union_index union_count spread_coefficient rows neurons")
_TILE = _words("union_index union_count spread_coefficient counts weights down_bias y rows neurons columns flags")


def _project(weights: str) -> Configuration:
    # A warp reads a neuron's row in vectors of 16 bytes a thread, four warps four neurons, 1024 elements each at once.
    block = {"f32": 128, "f16": 256, "bf16": 256, "i8": 512}[weights]
    constants = {"BLOCK_NEURONS": 4, "BLOCK_DEPTH": block, "UNROLL": 1024 // block}
    grid = ("rows", "splits", "1")
    return Configuration(
        f"project.{weights}", "project", "project", _PROJECT, constants, grid, warps=4, weights=weights
    )


def _down(weights: str) -> Configuration:
    constants = {"BLOCK_NEURONS": 32 if weights == "f32" else 64, "BLOCK_COLUMNS": 64}
    grid = ("rows", "column_tiles", "splits")
    return Configuration(f"down.{weights}", "down", "down", _DOWN, constants, grid, warps=4, weights=weights)


def _down_tile(weights: str) -> Configuration:
    constants = {"BLOCK_ROWS": 16, "BLOCK_NEURONS": 32, "BLOCK_COLUMNS": 64}
    grid = ("row_tiles", "column_tiles", "1")
    return Configuration(f"down_tile.{weights}", "tiles", "down_tile", _TILE, constants, grid, warps=4, weights=weights)


def _screen(rows: int, neurons: int, warps: int, stages: int) -> Configuration:
    constants = {"BLOCK_ROWS": rows, "BLOCK_NEURONS": neurons, "BLOCK_DEPTH": 64}
    grid = ("row_tiles", "neuron_tiles", "1")
    return Configuration(f"screen.rows{rows}", "screen", "screen", _SCREEN, constants, grid, warps, stages)


_ROW = ("rows", "1", "1")
_MASKED = _words("mask budget index found rows neurons flags")
_REDUCE = _words("partial counts down_bias y rows columns splits flags")

CONFIGURATIONS: dict[str, Configuration] = {
    one.name: one
    for one in (
        Configuration("quantize_rows", "screen", "quantize_rows", _QUANTIZE, {"BLOCK_DEPTH": 1024}, _ROW, warps=4),
        _screen(16, 32, warps=2, stages=6),
        _screen(128, 128, warps=8, stages=3),
        Configuration("list_masked", "lists", "list_masked", _MASKED, {"BLOCK_NEURONS": 4096}, _ROW, warps=8),
        Configuration("list_scored", "lists", "list_scored", _SCORED, {"BLOCK_NEURONS": 2048}, _ROW, warps=8),
        *(_project(weights) for weights in WEIGHT_TYPES),
        Configuration("select", "select", "select", _SELECT, {"BLOCK_NEURONS": 1024}, _ROW, warps=4),
        *(_down(weights) for weights in WEIGHT_TYPES),
        Configuration(
            "reduce_down", "down", "reduce_down", _REDUCE, {"BLOCK_COLUMNS": 256}, ("rows", "column_tiles", "1"), 2
        ),
        Configuration(
            "union_lists", "tiles", "union_lists", _UNION, {"BLOCK_ROWS": 16, "BLOCK_NEURONS": 256},
            ("row_tiles", "1", "1"), warps=4,
        ),
        *(_down_tile(weights) for weights in WEIGHT_TYPES),
    )
}  # fmt: skip
