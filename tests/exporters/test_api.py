"""What `export` does besides exporting: versions, names, caps, failures that leave nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lazyneuron
from lazyneuron.engine.errors import (
    ArtifactError,
    CalibrationError,
    CheckpointError,
    ConfigurationError,
)
from lazyneuron.exporters import api
from tests.exporters import graphs
from tests.exporters.graphs import OUT, D, F


@pytest.fixture
def checkpoint(tmp_path):
    return graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())


def calibration(folder: Path, count: int) -> Path:
    x = np.random.default_rng(0).standard_normal((count, 4, D)).astype(np.float32)
    np.savez(folder / "data.npz", x=x)
    return folder / "data.npz"


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_versions_count_up_and_are_never_overwritten(checkpoint, tmp_path):
    output = tmp_path / "models" / "plain"
    assert lazyneuron.export(checkpoint, output).path == output / "1"
    assert lazyneuron.export(checkpoint, output, version=7).path == output / "7"
    assert lazyneuron.export(checkpoint, output).manifest.version == 8
    before = everything(tmp_path)
    with pytest.raises(ArtifactError, match=r"version 7 is there already"):
        lazyneuron.export(checkpoint, output, version=7)
    assert everything(tmp_path) == before


def test_a_cap_is_counted_in_the_plan_and_in_the_answers(checkpoint, tmp_path):
    report = lazyneuron.export(checkpoint, tmp_path / "capped", top_k=3, calibration=calibration(tmp_path, 40))
    (block,) = report.manifest.blocks
    assert block.top_k == 3
    assert block.density.p99 == 3 / F
    assert block.density.mean < report.sparsity.blocks[0].density.mean
    assert report.manifest.quality.outputs[0].max_rel_error > 1e-3  # said, not refused: a person asked for it
    x = np.random.default_rng(1).standard_normal((2, 3, D)).astype(np.float32)
    (counts,) = lazyneuron.load(report.path).predict({"x": x}).sparsity.blocks
    assert counts.active <= 3 * 6


def test_a_part_of_the_data_is_held_out(checkpoint, tmp_path):
    manifest = lazyneuron.export(checkpoint, tmp_path / "m", calibration=calibration(tmp_path, 100)).manifest
    assert manifest.quality.examples == 10
    assert manifest.blocks[0].density.rows == 90 * 4
    assert manifest.calibration.model_dump() == {"kind": "data", "name": "data.npz", "examples": 100}
    assert manifest.notes == ()


def test_too_little_data_is_said(checkpoint, tmp_path):
    manifest = lazyneuron.export(checkpoint, tmp_path / "m", calibration=calibration(tmp_path, 3)).manifest
    assert manifest.quality.examples == 3
    assert "too few examples" in manifest.notes[0]


def test_inspect_is_exports_density(checkpoint, tmp_path):
    data = calibration(tmp_path, 3)
    inspected = lazyneuron.inspect(checkpoint, data)
    assert (
        inspected.blocks[0].density
        == lazyneuron.export(checkpoint, tmp_path / "m", calibration=data).manifest.blocks[0].density
    )
    document = inspected.document()
    (block,) = document["blocks"]
    assert {"name", "activation", "d_model", "d_ff", "density"} <= block.keys()
    assert document["skipped"] == []


def test_inspect_of_a_model_without_blocks_says_so(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", [graphs.node("MatMul", "x w", "y")], {"w": np.ones((D, OUT), np.float32)})
    report = lazyneuron.inspect(path)
    assert (report.blocks, report.skipped) == ((), ())
    with pytest.raises(CheckpointError, match="no MLP block, an activation between two projections, in it"):
        lazyneuron.export(path, tmp_path / "models" / "none")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k is 0; expected a whole number of at least 1"),
        ({"mode": "predictor"}, "mode predictor needs calibration data.*give --calibration"),
        ({"predictor_recall": 1.0}, "predictor_recall is 1.0; expected a share from 0.5 to below 1"),
        ({"predictor_rank": 0}, "predictor_rank is 0; expected a whole number of at least 1"),
        ({"quantize": "int4"}, "quantize is 'int4'; expected one of none, int8"),
        ({"mode": "fast"}, "mode is 'fast'; expected one of auto, exact"),
        ({"task": "chess"}, "task is 'chess'; expected one of feature-extraction"),
        ({"max_quality_drop": 2.0}, "max_quality_drop is 2.0; expected a share"),
        ({"topk": 3}, "unknown option 'topk'; expected one of .*top_k"),
        ({"name": "a/b"}, "'a/b' cannot be a model's name"),
    ],
)
def test_wrong_options(checkpoint, tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        lazyneuron.export(checkpoint, tmp_path / "models" / "m", **options)
    assert not (tmp_path / "models").exists()


class TestNothingIsLeft:
    def test_bad_calibration(self, checkpoint, tmp_path):
        np.savez(tmp_path / "data.npz", x=np.ones((3, 4, D + 1), np.float32))
        with pytest.raises(CalibrationError, match=r"example 0: input x: got shape \[4, 7\]"):
            lazyneuron.export(checkpoint, tmp_path / "a" / "b", calibration=tmp_path / "data.npz")
        assert not (tmp_path / "a").exists()

    def test_ctrl_c(self, checkpoint, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        lazyneuron.export(checkpoint, tmp_path / "models" / "m")
        before = everything(tmp_path)
        monkeypatch.setattr(api, "_validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lazyneuron.export(checkpoint, tmp_path / "models" / "m")
        assert everything(tmp_path) == before

    def test_output_is_a_file(self, checkpoint, tmp_path):
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(ArtifactError, match="cannot write the artifact: File exists"):
            lazyneuron.export(checkpoint, tmp_path / "taken")
        assert (tmp_path / "taken").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_unwritable_output(self, checkpoint, tmp_path):
        (tmp_path / "locked").mkdir(mode=0o555)
        with pytest.raises(ArtifactError, match="cannot write the artifact: Permission denied"):
            lazyneuron.export(checkpoint, tmp_path / "locked" / "m")

    def test_files_that_may_not_grow(self, tmp_path):
        """The kernel refuses writes past a limit, as it does on a full disk."""
        path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(f=1 << 15))
        done = self.command(path, tmp_path / "models" / "m", largest=1 << 18)
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot write the artifact: File too large" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "models").exists()

    def test_a_full_disk(self, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
        if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a small disk")
        try:
            path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(f=1 << 15))
            done = self.command(path, disk / "models" / "m")
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.splitlines()[-1].endswith("cannot write the artifact: no space left on the device")
            assert everything(disk) == set()
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    @staticmethod
    def command(checkpoint: Path, output: Path, largest: int = -1) -> subprocess.CompletedProcess[str]:
        # Not `preexec_fn`: some library's thread may hold a lock in that moment.
        limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)"
        command = [sys.executable, "-m", "lazyneuron", "export", str(checkpoint), "--output", str(output)]
        return subprocess.run(
            [sys.executable, "-c", f"{limit}; os.execv(sys.argv[2], sys.argv[2:])", str(largest), *command],
            capture_output=True,
            text=True,
            check=False,
        )
