"""The benchmarks of GPUs: what they do without one, and their parts on the CPU."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from lazyneuron.engine.devices.choice import CPU
from lazyneuron.engine.gpu.data_sheets import GPUS
from lazyneuron.engine.gpu.speed import Setting

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    for folder in (FOLDER, FOLDER / "gpu"):
        monkeypatch.syspath_prepend(str(folder))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this one has CUDA")
def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, str(FOLDER / "gpu" / "run.py"), "--output", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU here: this ONNX Runtime ")
    assert not list(tmp_path.iterdir())


def test_blocks_are_held_against_the_roofline(scripts, capsys):
    import blocks

    setting = Setting(d_model=32, d_ff=64, rows=(1, 2), densities=(0.1, 0.3), seconds=0.001)
    figures = blocks.measure(CPU, setting, GPUS["a100"])
    assert len(figures["speeds"]) == 4 * 2 * 2
    assert all(one["roofline"] > 5e-6 for one in figures["speeds"])  # of two launches and more
    out = capsys.readouterr().out
    assert "32 / 64, 10 % active" in out
    assert "32 / 64, 30 % active" in out
    assert blocks.measure(CPU, setting, None)["speeds"][0]["roofline"] is None


def test_limits(scripts, capsys):
    import limits

    found = limits.measure(CPU, side=64, rows=16)
    assert found["memory"] > 0
    assert found["fp16"] > 0
    assert limits.show(found, GPUS["h100"])["data_sheet"] == {"memory": 3352e9, "fp16": 989.4e12}
    assert "GB/s of 3352 by the data sheet" in capsys.readouterr().out


def test_every_engine_of_the_encoder_is_there(scripts, monkeypatch):
    monkeypatch.setitem(sys.modules, "encoder", SimpleNamespace())  # they bring torch
    monkeypatch.setitem(sys.modules, "encoder_models", SimpleNamespace(make_for_gpu=None))
    monkeypatch.delitem(sys.modules, "whole_encoder", raising=False)
    import encoder_engines
    import whole_encoder

    assert {name for names in whole_encoder.VARIANTS.values() for name in names} <= encoder_engines.ENGINES.keys()
