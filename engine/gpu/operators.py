"""SparseDown and SparseMLP by the Triton kernels, from Python, on torch tensors: for tests and benchmarks.

What the CUDA operator does in C++: the same kernels in the same order, with the semantics of ``engine.reference``.
"""

import dataclasses
from typing import cast

import numpy as np
import torch

from lazyneuron.engine.gpu.configurations import ACTIVATIONS, CONFIGURATIONS, FLAGS, SEGMENTS
from lazyneuron.engine.gpu.launch import Argument, launch
from lazyneuron.engine.gpu.neurons import STRIDE, ScreenedNeurons, screen_neurons

Tensor = torch.Tensor

_WEIGHTS = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.int8: "i8"}
BY_VALUE = ("relu", "relu2")
# From so many rows up the screen's tile of 128 rows is better filled than its tile of 16.
ROWS_FOR_WIDE_SCREEN = 64
# About so many programs keep a GPU's memory busy.
PROGRAMS = 1024


@dataclasses.dataclass(frozen=True)
class Gating:
    """The attributes that both operators have; see ``engine.reference``."""

    activation: str = "relu"
    top_k: int = 0
    threshold: float = 0.0


@dataclasses.dataclass(frozen=True)
class DownProjection:
    """The down projection's weights, contiguous and on one device.

    Attributes
    ----------
    weights : float32, float16, bfloat16 or int8 [F, D_out]
    bias : float32 [D_out], optional
    scale : float32 [F], optional
        int8 needs it.
    by_tiles : bool
        Of tiles of rows, where rows share neurons; for finite weights alone.
    """

    weights: Tensor
    bias: Tensor | None = None
    scale: Tensor | None = None
    by_tiles: bool = False


@dataclasses.dataclass(frozen=True)
class NeuronProjection:
    """An up or gate projection: weights as of ``DownProjection`` [F, D]; scale and bias float32 [F], optional."""

    weights: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    def run(self, x: Tensor, index: Tensor, found: Tensor) -> Tensor:
        """Compute the values of the rows' lists, float32 [rows, F]."""
        rows, neurons = index.shape
        name = f"project.{_WEIGHTS[self.weights.dtype]}"
        values = x.new_empty(rows, neurons)
        arguments: dict[str, Argument] = {
            "x": x,
            "weights": self.weights,
            "scale": self.scale,
            "bias": self.bias,
            "index": index,
            "found": found,
            "values": values,
            "rows": rows,
            "neurons": neurons,
            "depth": x.shape[1],
            "flags": _flags(scale=self.scale, bias=self.bias),
        }
        strips = -(-neurons // CONFIGURATIONS[name].tile("NEURONS"))
        launch(name, arguments, splits=max(1, min(strips, -(-PROGRAMS // rows))))
        return values


class SparseDown:
    """``reference.sparse_down`` on a GPU.

    Parameters
    ----------
    down : DownProjection
    up_bias : float32 [F], optional
    gating : Gating
    """

    def __init__(self, down: DownProjection, up_bias: Tensor | None = None, gating: Gating | None = None) -> None:
        self.down = down
        self.up_bias = up_bias
        self.gating = gating or Gating()

    def __call__(self, pre: Tensor, budget: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Gate the rows of float32 ``pre`` [rows, F] with ``budget`` float32 [rows], and project them.

        Returns
        -------
        y : float32 [rows, D_out]
        active : int32 [rows]
        """
        if not len(pre):
            return pre.new_empty(0, self.down.weights.shape[1]), _counts(pre, 0)
        by_magnitude = self.gating.activation not in BY_VALUE
        lists = select(pre, self.gating, budget, self.down.scale, bias=self.up_bias, by_magnitude=by_magnitude)
        return project_down(self.down, lists), lists.active


@dataclasses.dataclass(frozen=True)
class Screen:
    """The neurons' side of the certified screen, on the device; see ``neurons.ScreenedNeurons``."""

    neurons: ScreenedNeurons
    codes: Tensor
    constant: Tensor
    spread: Tensor
    size: Tensor
    shift: Tensor | None
    stretch: Tensor | None
    draw: Tensor | None

    @classmethod
    def of(cls, neurons: ScreenedNeurons, device: torch.device) -> "Screen":
        """Move it to a device."""

        def moved(array: np.ndarray | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)

        names = ("codes", "constant", "spread", "size", "shift", "stretch", "draw")
        return cls(neurons, *(moved(getattr(neurons, name)) for name in names))  # type: ignore[arg-type]

    def candidates(self, x: Tensor, budget: Tensor | None) -> tuple[Tensor, Tensor]:
        """List the neurons that may be active: int32 [rows, F], and how many int32 [rows]."""
        rows, depth = x.shape
        neurons, stride = self.codes.shape
        codes = torch.empty(rows, stride, dtype=torch.int8, device=x.device)
        terms = {name: x.new_empty(rows) for name in ("inverse", "norm", "residual")}
        flags = _flags(budget=budget, shift=self.shift, stretch=self.stretch, draw=self.draw)
        sizes = {"rows": rows, "neurons": neurons, "depth": depth, "code_stride": stride, "flags": flags}
        floats = {name: getattr(self.neurons, name) for name in ("largest_norm", "shift_norm", "widest", "underflow")}
        shared: dict[str, Argument] = {
            "budget": budget,
            "codes": codes,
            **terms,
            "dense": _counts(x, rows),
            "mask": torch.empty(rows, neurons, dtype=torch.int8, device=x.device),
            "index": _counts(x, rows, neurons),
            "found": _counts(x, rows),
            **sizes,
        }
        row_side = {"x": x, "shift": self.shift, "stretch": self.stretch, "draw": self.draw, **floats}
        neuron_side = {"constant": self.constant, "spread": self.spread, "size": self.size}
        launch("quantize_rows", shared | row_side)
        name = "screen.rows128" if rows >= ROWS_FOR_WIDE_SCREEN else "screen.rows16"
        launch(name, shared | neuron_side | {"neuron_codes": self.codes})
        launch("list_masked", shared)
        return cast("Tensor", shared["index"]), cast("Tensor", shared["found"])


class SparseMLP:
    """``reference.sparse_mlp`` on a GPU.

    Parameters
    ----------
    up : NeuronProjection
    down : DownProjection
    gate : NeuronProjection, optional
        In predictor mode, without a bias.
    gating : Gating
    mode : str
        certified, predictor or gate.
    score_threshold : float
    screen : ScreenedNeurons, optional
        In certified mode; made of ``up`` by ``screen_of`` when it is not given.
    """

    def __init__(
        self,
        up: NeuronProjection,
        down: DownProjection,
        gate: NeuronProjection | None = None,
        gating: Gating | None = None,
        *,
        mode: str = "certified",
        score_threshold: float = 0.0,
        screen: ScreenedNeurons | None = None,
    ) -> None:
        self.up, self.down, self.gate = up, down, gate
        self.gating = gating or Gating()
        self.mode = mode
        self.score_threshold = score_threshold
        self._screen = None
        if mode == "certified":
            self._screen = Screen.of(screen or screen_of(up, self.gating), up.weights.device)

    def __call__(
        self, x: Tensor, budget: Tensor | None = None, scores: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the block on float32 ``x`` [rows, D], ``budget`` [rows] and, not in certified mode, ``scores`` [rows, F].

        Returns
        -------
        y : float32 [rows, D_out]
        active, candidates : int32 [rows]
        """
        if not len(x):
            return x.new_empty(0, self.down.weights.shape[1]), _counts(x, 0), _counts(x, 0)
        gating, factor = self.gating, None
        by_magnitude = gating.activation not in BY_VALUE
        if self._screen is not None:
            index, found = self._screen.candidates(x, budget)
        else:
            assert scores is not None, f"mode {self.mode!r} needs scores"
            index, found, factor = self._by_score(x, budget, scores)
            if self.mode == "gate":  # what scores a neuron is activated already
                gating, by_magnitude = dataclasses.replace(gating, activation="identity"), True
            elif self.gate is not None:
                factor, by_magnitude = self.gate.run(x, index, found), True
            else:
                factor = None
        values = self.up.run(x, index, found)
        lists = select(
            values, gating, budget, self.down.scale, by_magnitude=by_magnitude, candidates=(index, found), factor=factor
        )
        return project_down(self.down, lists), lists.active, lists.candidates

    def _by_score(self, x: Tensor, budget: Tensor | None, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, neurons = scores.shape
        index, found, factor = _counts(x, rows, neurons), _counts(x, rows), x.new_empty(rows, neurons)
        arguments: dict[str, Argument] = {
            "scores": scores,
            "x": x,
            "budget": budget,
            "index": index,
            "factor": factor,
            "found": found,
            "rows": rows,
            "neurons": neurons,
            "depth": x.shape[1],
            "activation": ACTIVATIONS.index(self.gating.activation),
            "score_threshold": self.score_threshold,
            "flags": _flags(budget=budget, gate_mode=self.mode == "gate"),
        }
        launch("list_scored", arguments)
        return index, found, factor


def screen_of(
    up: NeuronProjection,
    gating: Gating,
    shift: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    miss_probability: float = 0.0,
) -> ScreenedNeurons:
    """Make the neurons' side of the certified screen of an up projection."""
    weights = up.weights.cpu()
    exact = weights.float() if weights.dtype == torch.bfloat16 else weights
    return screen_neurons(
        exact.numpy(),
        None if up.scale is None else up.scale.cpu().numpy(),
        None if up.bias is None else up.bias.cpu().numpy(),
        shift,
        scale,
        activation=gating.activation,
        threshold=gating.threshold,
        miss_probability=miss_probability,
    )


@dataclasses.dataclass(frozen=True)
class Lists:
    """What rows keep: neurons int32 and coefficients float32 [rows, F], of which `counts` [rows] are used."""

    kept: Tensor
    coefficient: Tensor
    counts: Tensor  # or the row's state, below 0
    active: Tensor
    candidates: Tensor


def select(
    values: Tensor,
    gating: Gating,
    budget: Tensor | None,
    down_scale: Tensor | None,
    *,
    by_magnitude: bool,
    bias: Tensor | None = None,
    candidates: tuple[Tensor, Tensor] | None = None,
    factor: Tensor | None = None,
) -> Lists:
    """Gate the values [rows, F]: of all neurons, or of the rows' lists of candidates (index and found)."""
    rows, neurons = values.shape
    index, found = candidates or (None, None)
    lists = Lists(
        kept=_counts(values, rows, neurons),
        coefficient=torch.empty_like(values),
        counts=_counts(values, rows),
        active=_counts(values, rows),
        candidates=_counts(values, rows),
    )
    flags = _flags(
        budget=budget, bias=bias, down_scale=down_scale, index=index, factor=factor, by_magnitude=by_magnitude
    )
    arguments: dict[str, Argument] = {
        "values": values,
        "factor": factor,
        "index": index,
        "found": found,
        "bias": bias,
        "down_scale": down_scale,
        "budget": budget,
        **vars(lists),
        "rows": rows,
        "neurons": neurons,
        "top_k": gating.top_k,
        "activation": ACTIVATIONS.index(gating.activation),
        "threshold": gating.threshold,
        "flags": flags,
    }
    launch("select", arguments)
    return lists


def project_down(down: DownProjection, lists: Lists) -> Tensor:
    """Add up the kept neurons' weights, float32 [rows, D_out]."""
    rows, neurons = lists.kept.shape
    columns = down.weights.shape[1]
    kind = _WEIGHTS[down.weights.dtype]
    y = lists.coefficient.new_empty(rows, columns)
    arguments: dict[str, Argument] = {
        **{name: value for name, value in vars(lists).items() if name in ("kept", "coefficient", "counts")},
        "weights": down.weights,
        "down_bias": down.bias,
        "y": y,
        "rows": rows,
        "neurons": neurons,
        "columns": columns,
        "splits": 1,
        "flags": _flags(down_bias=down.bias),
    }
    if down.by_tiles:
        tiles = -(-rows // CONFIGURATIONS["union_lists"].tile("ROWS"))
        union = {
            "union_index": _counts(y, tiles, neurons),
            "union_count": _counts(y, tiles),
            "spread_coefficient": y.new_empty(rows, neurons),
        }
        launch("union_lists", arguments | union)
        launch(f"down_tile.{kind}", arguments | union)
        return y
    name = f"down.{kind}"
    if rows * -(-columns // CONFIGURATIONS[name].tile("COLUMNS")) >= PROGRAMS // 2:
        launch(name, arguments)
        return y
    partial = y.new_empty(SEGMENTS, rows, columns)
    flags = cast("int", arguments["flags"]) | FLAGS["partial"]
    arguments |= {"splits": SEGMENTS, "flags": flags}
    launch(name, arguments | {"y": partial}, splits=SEGMENTS)
    launch("reduce_down", arguments | {"partial": partial})
    return y


def _counts(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int32, device=like.device)


def _flags(**given: Tensor | bool | None) -> int:
    """Add up the bits of what is given and not False."""
    return sum(FLAGS[name] for name, value in given.items() if value is not None and value is not False)


assert STRIDE == CONFIGURATIONS["screen.rows16"].tile("DEPTH") == CONFIGURATIONS["screen.rows128"].tile("DEPTH")
