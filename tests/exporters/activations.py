"""The ways in which exporters write an activation: nodes from `pre` to `h`, with the constants they need."""

import numpy as np
from onnx import NodeProto

from tests.exporters.graphs import node

Form = list[NodeProto]


def _number(value: float) -> np.ndarray:
    return np.full((), value, np.float32)


CONSTANTS = {
    "half": _number(0.5),
    "root": _number(1.4142135),
    "inverse_root": _number(0.70710677),
    "one": _number(1),
    "two": _number(2),
    "cube": _number(0.044715),
    "three": _number(3),
    "slope": _number(0.7978846),
    "quick": _number(1.702),
    "zero": _number(0),
    "six": _number(6),
}


def microsoft(op: str) -> NodeProto:
    return node(op, "pre", "h", domain="com.microsoft")


FORMS: dict[str, tuple[str, Form, int]] = {
    "gelu, erf of a quotient": (
        "gelu",
        [
            node("Div", "pre root", "a"),
            node("Erf", "a", "b"),
            node("Add", "b one", "c"),
            node("Mul", "pre c", "d"),
            node("Mul", "d half", "h"),
        ],
        13,
    ),
    "gelu, half first": (
        "gelu",
        [
            node("Mul", "pre inverse_root", "a"),
            node("Erf", "a", "b"),
            node("Add", "one b", "c"),
            node("Mul", "half pre", "d"),
            node("Mul", "d c", "h"),
        ],
        17,
    ),
    "gelu, opset 20": ("gelu", [node("Gelu", "pre", "h")], 20),
    "gelu, com.microsoft": ("gelu", [microsoft("Gelu")], 17),
    "gelu_tanh, composed": (
        "gelu_tanh",
        [
            node("Pow", "pre three", "a"),
            node("Mul", "a cube", "b"),
            node("Add", "pre b", "c"),
            node("Mul", "c slope", "d"),
            node("Tanh", "d", "e"),
            node("Add", "e one", "f"),
            node("Mul", "pre half", "g"),
            node("Mul", "g f", "h"),
        ],
        17,
    ),
    "gelu_tanh, multiplied out": (
        "gelu_tanh",
        [
            node("Mul", "pre pre", "a"),
            node("Mul", "a cube", "b"),
            node("Add", "b one", "c"),
            node("Mul", "pre slope", "d"),
            node("Mul", "d c", "e"),
            node("Tanh", "e", "f"),
            node("Add", "f one", "g"),
            node("Mul", "pre g", "i"),
            node("Mul", "i half", "h"),
        ],
        17,
    ),
    "gelu_tanh, opset 20": ("gelu_tanh", [node("Gelu", "pre", "h", approximate="tanh")], 20),
    "gelu_tanh, com.microsoft": ("gelu_tanh", [microsoft("FastGelu")], 17),
    "silu, composed": ("silu", [node("Sigmoid", "pre", "s"), node("Mul", "pre s", "h")], 13),
    "silu, com.microsoft": ("silu", [node("QuickGelu", "pre", "h", domain="com.microsoft", alpha=1.0)], 17),
    "relu2, a product": ("relu2", [node("Relu", "pre", "r"), node("Mul", "r r", "h")], 17),
    "relu2, a power": ("relu2", [node("Relu", "pre", "r"), node("Pow", "r two", "h")], 17),
}
"""What the operators compute: its name, the nodes, and the least opset that has them."""

OTHERS: dict[str, tuple[str, Form]] = {
    "quick_gelu": (
        "quick_gelu",
        [node("Mul", "pre quick", "a"), node("Sigmoid", "a", "s"), node("Mul", "pre s", "h")],
    ),
    "quick_gelu, com.microsoft": (
        "quick_gelu",
        [node("QuickGelu", "pre", "h", domain="com.microsoft", alpha=1.702)],
    ),
    "relu6": ("relu6", [node("Clip", "pre zero six", "h")]),
    "hard_swish": ("hard_swish", [node("HardSwish", "pre", "h")]),
    "elu": ("elu", [node("Elu", "pre", "h")]),
    "leaky_relu": ("leaky_relu", [node("LeakyRelu", "pre", "h")]),
    "a choice": ("where", [node("Greater", "pre half", "m"), node("Where", "m pre zero", "h")]),
    "an absolute value": ("max", [node("Neg", "pre", "n"), node("Max", "pre n", "h")]),
}
"""What the operators do not compute: its name and the nodes."""
