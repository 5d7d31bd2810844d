import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import lazyneuron
from lazyneuron.exporters import recording, sessions
from lazyneuron.exporters.recording import Recording
from lazyneuron.exporters.sessions import Reopened, open_model, spill
from tests.exporters.predictors import planted

DTYPES = [np.float32, np.float16, np.int64, np.bool_]


class Graph:
    """A session that gives arrays of several types and shapes, and tells what was done to it."""

    def __init__(self, others=()):
        self.runs, self.closed, self.open = [], 0, False
        self.others = others

    def run(self, names, feed):
        assert not any(other.open for other in self.others), "two graphs are open"
        self.open = True
        number = int(feed["x"][0])
        self.runs.append(number)
        rng = np.random.default_rng(number)
        return [(rng.normal(size=rng.integers(0, 4, i)) * 9).astype(DTYPES[i % 4]) for i in range(len(names))]

    def close(self):
        self.open = False
        self.closed += 1


def feeds(count):
    return lambda: ({"x": np.array([number])} for number in range(count))


@given(count=st.integers(0, 12), outputs=st.integers(1, 5), most=st.integers(1, 400), again=st.integers(1, 3))
def test_what_is_read_is_what_the_graph_gave(tmp_path_factory, count, outputs, most, again):
    folder = tmp_path_factory.mktemp("recording")
    names = [str(i) for i in range(outputs)]
    dense = Graph()
    other = Graph([dense])
    dense.others = [other]
    recorded = Recording(dense, names, feeds(count), folder / "file", most_bytes=most)
    for _ in range(again):
        seen = []
        for feed, values in recorded.beside(other):
            other.run(names, feed)
            expected = Graph().run(names, feed)
            for value, wanted in zip(values, expected, strict=True):
                assert value.dtype == wanted.dtype
                np.testing.assert_array_equal(value, wanted)
            seen.append(int(feed["x"][0]))
        assert seen == list(range(count))
        other.close()
    assert not dense.open


def test_what_fits_is_run_once(tmp_path):
    dense, other = Graph(), Graph()
    recorded = Recording(dense, ["0", "1"], feeds(5), tmp_path / "file")
    recorded.prepare()
    assert (dense.runs, dense.closed) == ([0, 1, 2, 3, 4], 1)
    for _ in range(3):
        assert len(list(recorded.beside(other))) == 5
    assert (dense.runs, other.closed) == ([0, 1, 2, 3, 4], 0)


def test_what_does_not_fit_is_run_again(tmp_path):
    dense, other = Graph(), Graph()
    recorded = Recording(dense, ["0", "1"], feeds(3), tmp_path / "file", most_bytes=1)
    for _ in range(2):
        assert len(list(recorded.beside(other))) == 3
    assert dense.runs == [0, 1, 2, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "file.rest"]


@pytest.fixture
def model():
    """Return x · w + b with w, of more bytes than lie in a graph itself, and b, of few."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(2048, 256)).astype(np.float32), rng.normal(size=256).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2048])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)), w, b


def test_a_closed_session_runs_again(tmp_path, model):
    graph, values, bias = model
    session = open_model(graph, tmp_path / "g.onnx", sparse=False)
    x = np.ones((2, len(values)), np.float32)
    (first,) = session.run(["y"], {"x": x})
    session.close()
    (second,) = session.run(["y"], {"x": x})
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, x @ values + bias, rtol=1e-4, atol=1e-3)


def test_weights_that_are_in_a_file_are_not_written_again(tmp_path, model):
    graph, values, bias = model
    spill(graph, tmp_path)
    more = np.arange(4096, dtype=np.float32)
    extra = ir.Value(name="more", const_value=ir.tensor(more, name="more"), type=ir.TensorType(ir.DataType.FLOAT))
    extra.shape = ir.Shape(more.shape)
    graph.graph.register_initializer(extra)
    session = open_model(graph, tmp_path / "g.onnx", sparse=False)
    assert (tmp_path / "weights.data").stat().st_size >= values.nbytes
    assert (tmp_path / "g.onnx.data").stat().st_size == more.nbytes
    assert (tmp_path / "g.onnx").stat().st_size < 4096
    assert graph.graph.initializers["more"].const_value.numpy().tobytes() == more.tobytes()
    assert graph.graph.initializers["w"].const_value.raw is None, "the file is mapped still"
    (y,) = session.run(["y"], {"x": np.ones((1, len(values)), np.float32)})
    np.testing.assert_allclose(y[0], values.sum(axis=0) + bias, rtol=1e-4, atol=1e-3)


def test_weights_in_another_folders_file_are_written_whatever_their_size(tmp_path, model):
    graph, values, bias = model
    (tmp_path / "elsewhere").mkdir()
    ir.external_data.unload_from_model(graph, tmp_path / "elsewhere", "w.data", size_threshold_bytes=16)
    session = open_model(graph, tmp_path / "g.onnx", sparse=False)
    assert (tmp_path / "g.onnx.data").stat().st_size == values.nbytes + bias.nbytes
    (y,) = session.run(["y"], {"x": np.ones((1, len(values)), np.float32)})
    np.testing.assert_allclose(y[0], values.sum(axis=0) + bias, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"quantize": "int8"}, {"mode": "certified"}, {"top_k": 40, "max_quality_drop": 0.5}]
)
def test_an_export_keeps_one_graph_open_at_a_time(tmp_path, monkeypatch, options):
    alive, most = set(), []

    class Watched(Reopened):
        def __init__(self, path, *, sparse):
            super().__init__(path, sparse=sparse)
            self._note()

        def _note(self):
            alive.add(id(self))
            most.append(len(alive))

        def run(self, fetches, feed):
            self._note()
            return super().run(fetches, feed)

        def close(self):
            alive.discard(id(self))
            super().close()

        def __del__(self):
            alive.discard(id(self))

    monkeypatch.setattr(sessions, "Reopened", Watched)
    monkeypatch.setattr(recording, "MOST_BYTES", 1)
    checkpoint, data = planted.save(tmp_path, planted.weights(rank=6, noise=0.3)), tmp_path / "data.npz"
    np.savez(data, x=planted.inputs(100))
    report = lazyneuron.export(checkpoint, tmp_path / "m", calibration=data, cache=tmp_path / "cache", **options)
    assert report.manifest.blocks
    assert max(most) == 1
    assert len(most) > 5
