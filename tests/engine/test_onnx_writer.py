import subprocess
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from lazyneuron.engine.onnx_writer import Node, as_bfloat16, write_model

RNG = np.random.default_rng(0)


def model_of(constants=None, attributes=None):
    """One that onnx itself reads."""
    node = Node("Anything", ["x", "", "w"], ["y"], "lazyneuron", attributes or {})
    return onnx.load_model_from_string(
        write_model(
            [node], {"x": ("float32", ["rows", 3])}, {"y": ("int32", ["rows"])}, constants or {"w": np.ones(1, "f4")}
        )
    )


def test_a_model_is_read_as_it_was_written():
    model = model_of(attributes={"mode": "gate", "top_k": 7, "threshold": 0.25})
    onnx.checker.check_model(model)
    (node,) = model.graph.node
    assert (node.op_type, node.domain, list(node.input), list(node.output)) == (
        "Anything",
        "lazyneuron",
        ["x", "", "w"],
        ["y"],
    )
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {
        "mode": b"gate",
        "top_k": 7,
        "threshold": 0.25,
    }
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "lazyneuron": 1}
    (x,), (y,) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["rows", 3]
    assert (x.type.tensor_type.elem_type, y.type.tensor_type.elem_type) == (onnx.TensorProto.FLOAT, 6)


@given(value=st.integers(-(2**63), 2**63 - 1))
def test_any_whole_number_comes_back(value):
    assert model_of(attributes={"n": value}).graph.node[0].attribute[0].i == value


@given(
    array=arrays.arrays(
        st.sampled_from(["float32", "float16", "int8", "int32", "int64"]),
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=200, min_side=0).filter(lambda s: np.prod(s) < 5000),
    )
)
def test_any_array_comes_back(array):
    (tensor,) = model_of({"w": array}).graph.initializer
    read = numpy_helper.to_array(tensor)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_a_transposed_array_comes_back():
    array = RNG.standard_normal((3, 5)).astype(np.float32).T
    np.testing.assert_array_equal(numpy_helper.to_array(model_of({"w": array}).graph.initializer[0]), array)


def test_bfloat16_is_rounded_as_others_do():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.append(RNG.standard_normal(1000) * 10.0 ** RNG.integers(-30, 30, 1000), [1 + 2**-8, 1 + 3 * 2**-8])
    rounded = as_bfloat16(values.astype(np.float32))
    expected = values.astype(np.float32).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded.values, expected.astype(np.float32))
    (tensor,) = model_of({"w": rounded}).graph.initializer
    assert tensor.data_type == onnx.TensorProto.BFLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.float32), rounded.values)


def test_onnxruntime_runs_it():
    w = RNG.standard_normal((4, 2)).astype(np.float32)
    nodes = [Node("MatMul", ["x", "w"], ["p"]), Node("Relu", ["p"], ["y"])]
    given_, out = {"x": ("float32", ["rows", 4])}, {"y": ("float32", ["rows", 2])}
    session = ort.InferenceSession(write_model(nodes, given_, out, {"w": w}), providers=["CPUExecutionProvider"])
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x @ w, 0), rtol=1e-5)


def test_a_type_that_is_not_written():
    with pytest.raises(ValueError, match="element type float64; expected one of float32, int8"):
        model_of({"w": np.ones(2)})


def test_the_self_check_needs_nothing_but_what_serving_has():
    script = (
        "import sys, lazyneuron.cli.selfcheck, lazyneuron.engine.gpu.selfcheck, lazyneuron.engine.gpu.speed\n"
        "print(sorted({'onnx', 'torch', 'triton', 'matplotlib', 'onnx_ir'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
