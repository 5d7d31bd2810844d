"""What taking a centre off a block's values costs: ONNX Runtime's Sub, in shares of the dense block, measured here.

A share, and not seconds, so that it goes together with costs that another machine measured.
"""

from functools import cache, partial

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.timing import clock_for, ratio, time_in_turns

__all__ = ["subtraction_share"]

_SECONDS, _LEAST = 0.05, 5
_MOST_ROWS = 512
"""More than that take as long for each."""


@cache
def subtraction_share(d_model: int, d_ff: int, d_out: int, rows: int, threads: int) -> float:
    """Return how long Sub takes on [rows, d_ff] with one constant a neuron, over the time of the dense block."""
    rows = min(rows, _MOST_ROWS)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, d_model), np.float32)
    up, down = (rng.standard_normal(s, np.float32) / 32 for s in ((d_model, d_ff), (d_ff, d_out)))
    dense = [
        helper.make_node("MatMul", ["x", "up"], ["pre"]),
        helper.make_node("Relu", ["pre"], ["h"]),
        helper.make_node("MatMul", ["h", "down"], ["y"]),
    ]
    block = _session(dense, {"up": up, "down": down}, d_model, threads)
    taken = _session([helper.make_node("Sub", ["x", "centre"], ["y"])], {"centre": up[0]}, d_ff, threads)
    work = {
        "block": partial(block.run, None, {"x": x}),
        "sub": partial(taken.run, None, {"x": np.zeros((rows, d_ff), np.float32)}),
    }
    times = time_in_turns(work, seconds=_SECONDS, least=_LEAST, clock=clock_for(threads))
    return 1 / ratio(times["block"], times["sub"]).median


def _session(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int, threads: int
) -> ort.InferenceSession:
    graph = helper.make_graph(
        nodes,
        "work",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(values), name) for name, values in constants.items()],
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
