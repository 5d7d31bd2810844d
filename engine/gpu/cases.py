"""What the self-check runs: one node each, on data whose answer does not hang on how a sum was rounded.

Of drawn rows those are taken in which no value lies so near to the threshold, or to the last one that is kept, that
another order of summing could tell them apart: so the counts of two right kernels are equal. Where there are ties, all
sums are exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazyneuron.engine.block_graphs import stored
from lazyneuron.engine.onnx_writer import Array, Bfloat16, Node, write_model
from lazyneuron.engine.planted import PlantedBlock, plant
from lazyneuron.engine.reference import activate, sparse_down, sparse_mlp

__all__ = ["WEIGHTS", "Case", "Outputs", "model_sized_cases", "short_cases", "small_cases"]

WEIGHTS = ("float32", "float16", "int8", "bfloat16")

_Floats = NDArray[np.float32]
_INPUTS = {
    "SparseDown": ("pre", "down", "up_bias", "down_bias", "budget", "down_scale"),
    "SparseMLP": (
        *("x", "up", "down", "up_bias", "down_bias", "budget", "scores", "gate"),
        *("up_scale", "down_scale", "gate_scale", "screen_shift", "screen_scale"),
    ),
}
_FED = ("pre", "x", "scores", "budget")
_BY_VALUE = ("relu", "relu2")
_MARGIN = 1e-4
"""How near to a limit no value may lie; values are of the order of 1, and sums in float32 are some 1e-6 off."""
_POOL = 6
"""Rows that are drawn for each one that is wanted."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What an operator gives, and between which bounds its candidates may be.

    Attributes
    ----------
    y
        float32 [rows, columns].
    active
        int32 [rows].
    fewest, most
        int32 [rows]; None where the operator counts no candidates.
    """

    y: _Floats
    active: NDArray[np.int32]
    fewest: NDArray[np.int32] | None = None
    most: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One node and its data.

    Attributes
    ----------
    mode
        `down` for SparseDown, else SparseMLP's.
    weights
        The type of the weights.
    data
        What the data is, in a word or two.
    arrays
        By the operator's names of its inputs; weights that are bfloat16 in the graph are float32 here.
    attributes
        The node's.
    """

    mode: str
    weights: str
    data: str
    arrays: Mapping[str, Array]
    attributes: Mapping[str, float | int | str]

    @property
    def operator(self) -> str:
        """The operator's name."""
        return "SparseDown" if self.mode == "down" else "SparseMLP"

    @property
    def name(self) -> str:
        """The operator, its mode and the type of its weights."""
        mode = "" if self.mode == "down" else f" {self.mode}"
        return f"{self.operator}{mode}, {self.weights} weights"

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.arrays["pre" if self.mode == "down" else "x"])

    @property
    def neurons(self) -> int:
        """The block's neurons."""
        return len(self.arrays["down"])

    @property
    def feeds(self) -> dict[str, Array]:
        """What a session is given."""
        return {name: array for name, array in self.arrays.items() if name in _FED}

    @property
    def outputs(self) -> list[str]:
        """The node's outputs."""
        return ["y", "active"] if self.mode == "down" else ["y", "active", "candidates"]

    def graph(self, *, bfloat16: bool = False) -> bytes:
        """Return the model; `bfloat16`: whether weights of that type are stored as such, else as float32."""
        names = [name if name in self.arrays else "" for name in _INPUTS[self.operator]]
        constants: dict[str, Array | Bfloat16] = {k: v for k, v in self.arrays.items() if k not in _FED}
        if bfloat16 and self.weights == "bfloat16":
            for name in ("up", "down", "gate"):
                if name in constants:
                    constants |= stored(name, self.arrays[name].astype(np.float32), "bfloat16")
        inputs = {name: ("float32", ["rows", *array.shape[1:]]) for name, array in self.feeds.items()}
        outputs = {name: ("int32", ["rows"]) for name in self.outputs} | {"y": ("float32", ["rows", "columns"])}
        node = Node(self.operator, names, self.outputs, "lazyneuron", self.attributes)
        return write_model([node], inputs, {name: outputs[name] for name in self.outputs}, constants)

    def reference(self) -> Outputs:
        """Return the right outputs, by the operators in NumPy."""
        arrays: dict[str, Any] = dict(self.arrays)
        attributes: dict[str, Any] = dict(self.attributes)
        if self.mode == "down":
            return Outputs(*sparse_down(**arrays, **attributes))
        y, active, candidates = sparse_mlp(**arrays, **attributes)
        most = candidates
        if self.mode == "certified":  # the reference counts the fewest that are possible
            budget = arrays.get("budget", np.ones(self.rows, np.float32))
            most = np.where(budget > 0, self.neurons, 0).astype(np.int32)
        return Outputs(y, active, candidates, most)


def short_cases() -> Iterator[Case]:
    """Give a case for every mode and type of weights, with a cap, budgets and a NaN: what a server starts with."""
    rng = np.random.default_rng(0)
    (block,) = plant(rng, 52, 203, [0.1], rows=_POOL * 19)
    for weights in WEIGHTS:
        for mode, activation in (("down", "gelu"), ("certified", "relu"), ("predictor", "relu"), ("gate", "silu")):
            yield _case(rng, block, mode, weights, activation, rows=19, top_k=12, hard=True, data="small")


def small_cases() -> Iterator[Case]:
    """Give the short cases, further activations and options, and ties."""
    yield from short_cases()
    rng = np.random.default_rng(1)
    (block,) = plant(rng, 40, 150, [0.2], rows=_POOL * 17)
    for mode, activation in (
        *(("down", name) for name in ("relu", "relu2", "gelu_tanh", "silu", "identity")),
        ("certified", "relu2"),
        ("predictor", "gelu"),
        ("predictor, gated", "silu"),
        ("gate", "relu"),
    ):
        yield _case(rng, block, mode, "float32", activation, rows=17, top_k=0, hard=False, data=f"small, {activation}")
    yield _case(rng, block, "certified", "float16", "relu", rows=17, top_k=9, hard=False, data="small, shifted screen")
    (tied,) = plant(rng, 24, 96, [0.3], rows=13)
    for mode in ("down", "certified", "predictor"):
        yield _tied(rng, tied, mode)


def model_sized_cases(rows: Sequence[int] = (1, 64)) -> Iterator[Case]:
    """Give a case of T5-Base's size for every mode, type of weights and number of rows."""
    rng = np.random.default_rng(2)
    (block,) = plant(rng, 768, 3072, [0.03], rows=_POOL * max(rows))
    for count in rows:
        for weights in WEIGHTS:
            for mode in ("down", "certified", "predictor", "gate"):
                data = f"768 / 3072, {count} {'row' if count == 1 else 'rows'}"
                yield _case(rng, block, mode, weights, "relu", rows=count, top_k=128, hard=count > 1, data=data)


def _case(
    rng: np.random.Generator,
    block: PlantedBlock,
    mode: str,
    weights: str,
    activation: str,
    *,
    rows: int,
    top_k: int,
    hard: bool,
    data: str,
) -> Case:
    """Make a case of a planted block; `hard`: with budgets, rows that are skipped, and a row with a NaN."""
    gated = mode == "predictor, gated"
    mode = "predictor" if gated else mode
    linear = block.gate if mode == "gate" else block.up  # in mode gate the planted projection makes the scores
    arrays: dict[str, Array] = {"down_bias": rng.standard_normal(block.d_model).astype(np.float32)}
    arrays |= _constants("down", block.down, weights)
    if mode != "gate":
        arrays["up_bias"] = block.up_bias
    if mode == "down":
        arrays["pre"] = block.pre
    else:
        arrays |= _constants("up", linear, weights) | {"x": block.rows}
    if gated:
        arrays |= _constants("gate", block.gate, weights)
    if data.endswith("screen"):
        shift = rng.standard_normal(block.d_model) / 4
        arrays |= {"screen_shift": shift.astype(np.float32), "screen_scale": np.exp(shift).astype(np.float32)}
    attributes: dict[str, float | int | str] = {"activation": activation, "top_k": top_k}
    if mode != "down":
        attributes["mode"] = mode
    if mode in {"predictor", "gate"}:
        scores = block.pre + block.up_bias
        noise = 0.3 * rng.standard_normal(scores.shape) if mode == "predictor" else 0.0
        arrays["scores"] = (scores + noise).astype(np.float32)
        attributes["score_threshold"] = -0.25 if mode == "predictor" else 0.1
    budgets = (1.0, 0.5, 1.0, 0.0, 0.25, 1.0) if hard else (1.0,)
    budget = np.resize(np.array(budgets, np.float32), rows)
    chosen = _clear(arrays, attributes, mode, sorted({*budgets} - {0.0}), rows)
    arrays = {name: array[chosen].copy() if name in _FED else array for name, array in arrays.items()}
    if hard:
        arrays["budget"] = budget
        arrays["pre" if mode == "down" else "x"][2, 5] = np.nan
    return Case(mode, weights, data, arrays, attributes)


def _tied(rng: np.random.Generator, block: PlantedBlock, mode: str) -> Case:
    """Make a case of whole numbers: many values are equal, every sum is exact, and the lower neuron goes first."""

    def whole(*shape: int) -> _Floats:
        return rng.integers(-2, 3, shape).astype(np.float32)

    rows = len(block.rows)
    x, up, bias = whole(rows, block.d_model), whole(block.d_ff, block.d_model), whole(block.d_ff)
    arrays: dict[str, Array] = {"down": whole(block.d_ff, block.d_model), "up_bias": bias}
    attributes: dict[str, float | int | str] = {"activation": "relu", "top_k": 11}
    if mode == "down":
        return Case(mode, "float32", "ties", arrays | {"pre": x @ up.T}, attributes)
    arrays |= {"x": x, "up": up}
    if mode == "predictor":
        arrays["scores"] = x @ up.T + bias + whole(rows, block.d_ff)
        attributes["score_threshold"] = 0.0
    return Case(mode, "float32", "ties", arrays, attributes | {"mode": mode})


def _constants(name: str, values: _Floats, weights: str) -> dict[str, Array]:
    """Return a matrix in a type, with scales for int8; what is bfloat16 in the graph as float32."""
    return {key: a.values if isinstance(a, Bfloat16) else a for key, a in stored(name, values, weights).items()}


def _clear(
    arrays: Mapping[str, Any],
    attributes: Mapping[str, float | int | str],
    mode: str,
    budgets: Sequence[float],
    rows: int,
) -> NDArray[np.intp]:
    """Return the first rows in which nothing hangs on rounding, under each budget."""
    activation, top_k = str(attributes["activation"]), int(attributes["top_k"])
    linear = arrays["pre"] if mode == "down" else _product(arrays, "up")
    linear = (linear + arrays["up_bias"]).astype(np.float32) if "up_bias" in arrays else linear
    value = activate(linear, activation)
    if mode == "gate":
        value = activate(arrays["scores"].astype(np.float32), activation)
    if mode == "gate" or "gate" in arrays:
        value = (value if mode == "gate" else activate(_product(arrays, "gate"), activation)) * linear
    candidate = np.ones(value.shape, bool)
    if mode == "predictor":
        candidate = arrays["scores"] > np.float32(attributes["score_threshold"])
    near: list[Any] = [np.zeros(len(value), bool)]
    if activation in _BY_VALUE and mode != "gate" and "gate" not in arrays:
        near.append(((np.abs(linear) < _MARGIN) & candidate).any(axis=1))
    if mode == "gate":
        score = np.abs(activate(arrays["scores"].astype(np.float32), activation))
        threshold = float(attributes["score_threshold"])
        near.append((np.abs(score - threshold) < _MARGIN).any(axis=1))
        candidate = score > threshold
    size = np.sort(np.where(candidate, np.abs(value), 0), axis=1)[:, ::-1]
    for budget in budgets:
        kept = int(np.ceil(np.float32(budget) * np.float32(top_k or size.shape[1])))
        if kept < size.shape[1]:
            near.append((size[:, kept - 1] - size[:, kept] < _MARGIN) & (size[:, kept] > 0))
    chosen = np.flatnonzero(~np.any(near, axis=0))[:rows]
    assert len(chosen) == rows, f"{mode}: {len(chosen)} clear rows of {len(value)}, wanted {rows}"
    return chosen


def _product(arrays: Mapping[str, Any], name: str) -> _Floats:
    weights = arrays[name].astype(np.float64)
    if f"{name}_scale" in arrays:
        weights = weights * arrays[f"{name}_scale"].astype(np.float64)[:, None]
    product: _Floats = (arrays["x"].astype(np.float64) @ weights.T).astype(np.float32)
    return product
