import numpy as np
import onnx
import pytest
from onnx import TensorProto

import lazyneuron
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources import read_checkpoint
from tests.exporters import graphs
from tests.exporters.graphs import OUT, TOLERANCE, D, F


def test_export_and_predict(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    report = lazyneuron.export(path, tmp_path / "models" / "plain")
    x = np.random.default_rng(0).standard_normal((2, 9, D)).astype(np.float32)
    prediction = lazyneuron.load(tmp_path / "models" / "plain").predict({"x": x})
    graphs.assert_close(prediction.outputs["y"], graphs.run(path, {"x": x})["y"], tolerance=TOLERANCE[np.float32])
    assert report.manifest.source.kind == "onnx_file"
    assert report.manifest.inputs[0].pad is None  # no mask, so nothing tells padding from rows


def test_large_weights_lie_in_a_file_of_their_own(tmp_path):
    wide = 1 << 16
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(f=wide))
    report = lazyneuron.export(path, tmp_path / "models" / "wide")
    assert set(report.manifest.files) == {"model.onnx", "model.onnx.data", "plan.json", "probe.npz", "report.html"}
    assert (report.path / "model.onnx").stat().st_size < 10_000
    x = np.random.default_rng(0).standard_normal((1, 2, D)).astype(np.float32)
    actual = lazyneuron.load(report.path).predict({"x": x}).outputs["y"]
    graphs.assert_close(actual, graphs.run(path, {"x": x})["y"], tolerance=1e-4)


def test_external_data_is_read(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    before = read_checkpoint(str(path)).source.digest
    assert len(graphs.read(path)[1].blocks) == 1
    data = bytearray((tmp_path / "w.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "w.bin").write_bytes(data)
    assert read_checkpoint(str(path)).source.digest != before


def test_small_external_data_moves_into_the_artifact(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    report = lazyneuron.export(path, tmp_path / "m")
    assert set(report.manifest.files) == {"model.onnx", "plan.json", "probe.npz", "report.html"}
    assert report.manifest.quality.outputs[0].max_rel_error < 1e-4


def test_external_data_is_missing(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(CheckpointError, match=r"m\.onnx: not a readable ONNX file \(.*w\.bin"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("content", [b"", b"no protobuf at all", None], ids=["empty", "text", "truncated"])
def test_damaged_files(tmp_path, content):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(CheckpointError, match=r"m\.onnx: not a readable ONNX file") as caught:
        read_checkpoint(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_older_opsets(tmp_path, opset):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(), opset=opset)
    report = lazyneuron.export(path, tmp_path / "old")
    x = np.random.default_rng(0).standard_normal((2, 3, D)).astype(np.float32)
    actual = lazyneuron.load(report.path).predict({"x": x}).outputs["y"]
    graphs.assert_close(actual, graphs.run(path, {"x": x})["y"], tolerance=TOLERANCE[np.float32])


def test_axes_keep_a_persons_names(tmp_path):
    path = graphs.save(
        tmp_path / "m.onnx",
        graphs.plain_nodes(),
        graphs.weights(),
        inputs={"x": (TensorProto.FLOAT, ["N", "patches", D])},
        outputs={"y": (TensorProto.FLOAT, ["N", "patches", OUT])},
    )
    dense = read_checkpoint(str(path))
    assert dense.inputs[0].shape == ("batch", "patches", D)
    assert dense.outputs[0].shape == ("batch", "patches", OUT)


def test_a_fixed_batch(tmp_path):
    path = graphs.save(
        tmp_path / "m.onnx",
        graphs.plain_nodes(),
        graphs.weights(),
        inputs={"x": (TensorProto.FLOAT, [2, 3, D])},
        outputs={"y": (TensorProto.FLOAT, [2, 3, OUT])},
    )
    report = lazyneuron.export(path, tmp_path / "fixed")
    assert report.manifest.blocks[0].rows == (2, 3)
    assert report.manifest.blocks[0].density.rows % 6 == 0
    assert report.manifest.budget_input is None


def test_padding_that_reaches_real_rows_is_computed(tmp_path):
    """A graph that mixes rows without regard to its mask: skipping padding would change real rows' outputs."""
    nodes = [
        *graphs.plain_nodes()[:-1],
        graphs.node("Add", "second down_bias", "rows"),
        graphs.node("ReduceSum", "rows one", "mixed"),
        graphs.node("Add", "rows mixed", "mixed_rows"),
        graphs.node("Cast", "mask", "m", to=TensorProto.FLOAT),
        graphs.node("Unsqueeze", "m two", "m3"),
        graphs.node("Mul", "mixed_rows m3", "y"),
    ]
    constants = graphs.weights() | {"one": np.array([1]), "two": np.array([2])}
    inputs = {"x": (TensorProto.FLOAT, ["batch", "sequence", D]), "mask": (TensorProto.INT64, ["batch", "sequence"])}
    path = graphs.save(tmp_path / "m.onnx", nodes, constants, inputs=inputs)
    report = lazyneuron.export(path, tmp_path / "mixing")
    assert any(note.startswith("Padding rows are computed") for note in report.manifest.notes)
    mask = np.array([[1, 1, 0]])
    x = np.random.default_rng(0).standard_normal((1, 3, D)).astype(np.float32)
    expected = graphs.run(path, {"x": x, "mask": mask})["y"]
    actual = graphs.run(report.path / "model.onnx", {"x": x, "mask": mask})["y"]
    graphs.assert_close(actual, expected, tolerance=TOLERANCE[np.float32])
    assert report.manifest.blocks[0].d_ff == F
