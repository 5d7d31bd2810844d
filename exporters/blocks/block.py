"""What is found in a graph: MLP blocks, and what looked like one and was not taken."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Activation, Axes

__all__ = ["Block", "Projection", "Refusal", "Skipped", "Weight"]


_NOT_NEGATIVE = {"relu", "relu2"}


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant matrix.

    Attributes
    ----------
    key
        The stored tensor's name and what is done to it: weights of equal keys are the same, and are stored once.
    shape
        [in, out].
    read
        Gives the values.
    """

    key: str
    shape: tuple[int, int]
    read: Callable[[], NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Projection:
    """x · weight + bias.

    Attributes
    ----------
    x
        [..., in].
    product
        x · weight, before the bias.
    output
        After the bias; `product` where there is none.
    bias
        [out], float32.
    nodes
        The nodes that compute it.
    part
        Whether it is some columns of a wider projection, of which `product` and `output` are the part with the bias.
    """

    x: ir.Value
    product: ir.Value
    output: ir.Value
    weight: Weight
    bias: NDArray[np.float32] | None
    nodes: tuple[ir.Node, ...]
    part: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """An MLP block in a graph.

    Attributes
    ----------
    name
        For people: where it stands in the model. Unique in the graph.
    activation
        Between the two projections, as people call it.
    computed
        What the operator computes of what it is given: the activation, or `identity` where that stays in the graph.
    up, down
        The projections.
    gate
        The projection that the activation is applied to where a second one, `up`, is multiplied by it; None elsewhere.
    layout
        Reshapes and casts between them, in the order of the graph.
    top_k
        The model's own gate: the most neurons it keeps of a row; 0 where it has none.
    rows
        The axes of the block's rows, as the manifest describes them.
    flattened
        Whether the graph has the rows of several axes on one.
    """

    name: str
    activation: str
    computed: Activation
    up: Projection
    down: Projection
    layout: tuple[ir.Node, ...]
    top_k: int
    rows: Axes
    flattened: bool
    gate: Projection | None = None

    @property
    def hidden(self) -> ir.Value:
        """The neurons' values, as the down projection gets them: [..., d_ff]."""
        return self.down.x

    @property
    def reshaped(self) -> bool:
        """Whether the neurons' values are brought to another shape between the two projections."""
        return any(node.op_type not in {"Cast", "Identity", "Dropout"} for node in self.layout)

    @property
    def signed(self) -> bool:
        """Whether a neuron's value may be negative, so that it is active where its magnitude is above zero."""
        return self.computed not in _NOT_NEGATIVE or self.gate is not None

    @property
    def screenable(self) -> bool:
        """Whether the certified screen can stand in for the up projection."""
        return not (self.signed or self.reshaped)

    @property
    def gating(self) -> bool:
        """Whether the gate's zeros spare the up projection, too."""
        return self.gate is not None and self.computed in _NOT_NEGATIVE

    @property
    def d_model(self) -> int:
        """The width of what goes in."""
        return self.up.weight.shape[0]

    @property
    def d_ff(self) -> int:
        """The number of neurons."""
        return self.up.weight.shape[1]

    @property
    def d_out(self) -> int:
        """The width of what comes out."""
        return self.down.weight.shape[1]


@dataclass(frozen=True, slots=True)
class Skipped:
    """What looked like a block and was not taken.

    Attributes
    ----------
    name
        Where it stands in the model.
    reason
        Why it was not taken, in a sentence.
    """

    name: str
    reason: str


class Refusal(Exception):  # noqa: N818 (it is an answer, which never reaches a user)
    """What looks like a block cannot be taken.

    Attributes
    ----------
    reason
        Why, in a sentence.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
