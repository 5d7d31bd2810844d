import numpy as np
import onnx
import pytest
import torch

from lazyneuron.exporters.sources.torch_export import to_onnx
from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, F, node
from tests.exporters.rewriting import assert_agrees, rewrite_file

K = 4
FORMS = {
    "scatter": lambda h, v, i: torch.zeros_like(h).scatter(-1, i, v),
    "mask of floats": lambda h, v, i: h * torch.zeros_like(h).scatter(-1, i, 1.0),
    "mask of ones": lambda h, v, i: h * torch.zeros_like(h).scatter(-1, i, torch.ones_like(v)),
    "mask of booleans": lambda h, v, i: h.masked_fill(~torch.zeros_like(h, dtype=torch.bool).scatter(-1, i, True), 0.0),
    "at least the last": lambda h, v, i: h * (h >= v[..., -1:]),
    "at least the minimum": lambda h, v, i: h * (h >= v.amin(-1, keepdim=True)),
    "where at least": lambda h, v, i: torch.where(h >= v[..., -1:], h, 0.0),
    "where less": lambda h, v, i: torch.where(h < v[..., -1:], torch.zeros_like(h), h),
}


class Gated(torch.nn.Module):
    """A stack of blocks, one for each way to write the gate."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.ups = torch.nn.ModuleList(torch.nn.Linear(D, F) for _ in FORMS)
        self.downs = torch.nn.ModuleList(torch.nn.Linear(F, D) for _ in FORMS)

    def forward(self, x):
        for up, down, form in zip(self.ups, self.downs, FORMS.values(), strict=True):
            h = torch.relu(up(x))
            v, i = h.topk(K, dim=-1)
            x = x + down(form(h, v, i))
        return x


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("gated") / "m.onnx"
    dynamic = {"x": dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)}
    model = to_onnx(Gated().eval(), {"x": torch.randn(3, 5, D)}, dynamic, ("y",), what="gated")
    onnx.save(__import__("onnx_ir").to_proto(model), path)
    return path


def test_folds_every_form_into_top_k(exported):
    sparse, ledger, _ = rewrite_file(exported)
    assert [block.top_k for block in ledger.blocks.values()] == [K] * len(FORMS), ledger.skipped
    ops = {n.op_type for n in onnx.load(sparse).graph.node}
    assert not ops & {"TopK", "ScatterElements", "Relu", "Where", "Greater", "GreaterOrEqual", "Less"}


def test_agrees_with_dense(exported):
    x = np.random.default_rng(2).standard_normal((4, 3, D)).astype(np.float32)
    sparse = assert_agrees(exported, {"x": x}, tolerance=TOLERANCE[np.float32], blocks=len(FORMS))
    active = graphs.run(sparse, {"x": x})["lazyneuron.active.0"]
    assert active.max() == K


def gated_nodes(**top_k) -> list:
    return [
        node("MatMul", "x up", "product"),
        node("Add", "product up_bias", "pre"),
        node("Relu", "pre", "h"),
        node("TopK", "h k", "v i", **top_k),
        node("Shape", "h", "shape"),
        node("Expand", "zero shape", "zeros"),
        node("ScatterElements", "zeros i v", "g", axis=-1),
        node("MatMul", "g down", "second"),
        node("Add", "second down_bias", "y"),
    ]


def gated(tmp_path, nodes, **more):
    constants = graphs.weights() | {"k": np.array([K]), "zero": np.zeros((), np.float32)} | more
    return graphs.save(tmp_path / "m.onnx", nodes, constants)


def test_written_in_onnx(tmp_path):
    x = np.random.default_rng(2).standard_normal((4, 3, D)).astype(np.float32)
    assert_agrees(gated(tmp_path, gated_nodes()), {"x": x}, tolerance=TOLERANCE[np.float32])


@pytest.mark.parametrize("top_k", [{"largest": 0}, {"axis": 1}], ids=str)
def test_other_choices_are_not_this_gate(tmp_path, top_k):
    assert graphs.reasons(gated(tmp_path, gated_nodes(**top_k))) == []


def test_scattering_into_ones_is_not_this_gate(tmp_path):
    assert graphs.reasons(gated(tmp_path, gated_nodes(), zero=np.ones((), np.float32))) == []


def test_indices_used_elsewhere_are_refused(tmp_path):
    nodes = [*gated_nodes(), node("ReduceMax", "i", "unused_total", name="max_i")]
    constants = graphs.weights() | {"k": np.array([K]), "zero": np.zeros((), np.float32)}
    outputs = {
        "y": (onnx.TensorProto.FLOAT, ["batch", "sequence", OUT]),
        "unused_total": (onnx.TensorProto.INT64, [1, 1, 1]),
    }
    path = graphs.save(tmp_path / "m.onnx", nodes, constants, outputs=outputs)
    assert graphs.reasons(path) == ["i, inside it, is also used by ReduceMax max_i"]
