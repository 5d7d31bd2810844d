"""What an export leaves to check the artifact by."""

import numpy as np
import pytest

import lazyneuron
from lazyneuron.engine.artifact import digest
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import self_check
from tests.exporters import graphs


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probes")
    path = graphs.save(folder / "m.onnx", graphs.plain_nodes(), graphs.weights())
    return lazyneuron.export(path, folder / "models" / "m")


def test_an_export_has_a_probe_that_it_passes(report):
    manifest = report.manifest
    assert manifest.files["probe.npz"] == digest(report.path / "probe.npz")
    assert manifest.probe.tolerance == 1e-3
    assert [output.name for output in manifest.probe.outputs] == [output.name for output in manifest.outputs]
    assert self_check(Model.load(report.path), report.path).probed


def test_the_probe_is_the_same_each_time(report, tmp_path):
    again = lazyneuron.export(report.path.parents[2] / "m.onnx", tmp_path / "again")
    with np.load(report.path / "probe.npz") as a, np.load(again.path / "probe.npz") as b:
        assert a.files == b.files
        assert all(np.array_equal(a[name], b[name]) for name in a.files)
        assert all(len(a[name]) >= 2 for name in a.files if name.startswith("input:")), "two examples"


def test_a_checkpoint_that_keeps_its_weights_elsewhere(tmp_path):
    import onnx

    (tmp_path / "here").mkdir()
    path = graphs.save(tmp_path / "here" / "m.onnx", graphs.plain_nodes(), graphs.weights())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "here" / "w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "here" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match=r"w\.bin: leads to .*outside"):
        lazyneuron.export(path, tmp_path / "out")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../w.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"its external data is in '\.\./w\.bin'; expected a path within"):
        lazyneuron.export(path, tmp_path / "out")
