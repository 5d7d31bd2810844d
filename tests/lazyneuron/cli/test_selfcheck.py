import json
from itertools import islice

import onnxruntime as ort
import pytest

from lazyneuron.engine.devices.choice import CPU
from lazyneuron.engine.gpu import cases, selfcheck, speed
from lazyneuron.engine.gpu.speed import Setting
from tests.lazyneuron.cli.test_inspect_and_export import run

no_cuda = pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this one has CUDA")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(selfcheck, "small_cases", lambda: islice(cases.short_cases(), 8))
    monkeypatch.setattr(selfcheck, "model_sized_cases", lambda: iter(()))
    monkeypatch.setattr(speed, "setting_for", lambda place: Setting(d_model=32, d_ff=64, rows=(1, 2), seconds=0.001))


@pytest.fixture
def spoiled(monkeypatch):
    run_case = selfcheck._run

    def wrong(case, place, **options):
        got = run_case(case, place, **options)
        return got | {"y": got["y"] * (1.5 if case.mode == "gate" else 1)}

    monkeypatch.setattr(selfcheck, "_run", wrong)


def test_all_agree(capsys):
    status, out, _ = run(capsys, "selfcheck", "--device", "cpu")
    assert status == 0
    assert "SparseMLP certified" in out
    assert "times as fast as the dense block" in out
    assert "selfcheck: all " in out.splitlines()[-1]
    assert " checks agree on cpu (" in out.splitlines()[-1]


def test_the_short_form_times_nothing(capsys):
    status, out, _ = run(capsys, "selfcheck", "--device", "cpu", "--short")
    assert status == 0
    assert "times as fast" not in out


def test_one_document(capsys):
    status, out, _ = run(capsys, "selfcheck", "--device", "cpu", "--json")
    document = json.loads(out)
    assert (status, document["agrees"], document["device"]) == (0, True, "cpu")
    assert {"operator", "mode", "weights", "data", "on", "error", "disagreements"} == set(document["checks"][0])
    assert document["speed"][0]["dense"]["float32"] > 0


def test_what_disagrees_is_named_and_nothing_is_timed(capsys, spoiled):
    status, out, err = run(capsys, "selfcheck", "--device", "cpu")
    assert status == 1
    assert "SparseMLP gate, float32 weights (small) on " in out
    assert "y is off by 5.0e-01 of its largest entry, tolerance 1e-04" in out
    assert "checks disagree on cpu (" in out.splitlines()[-1]
    assert "times as fast" not in out
    assert "Traceback" not in out + err
    status, out, _ = run(capsys, "selfcheck", "--device", "cpu", "--json")
    assert (status, json.loads(out)["agrees"]) == (1, False)


@no_cuda
def test_a_device_that_is_not_there(capsys):
    status, out, err = run(capsys, "selfcheck", "--device", "cuda:0")
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: --device cuda:0 cannot be used: this ONNX Runtime ")


def test_no_device(capsys):
    status, _, err = run(capsys, "selfcheck", "--device", "gpu")
    assert status == 2
    assert "device 'gpu'; expected cpu, or a GPU as cuda:0" in err


@no_cuda
def test_auto_takes_the_cpu_where_there_is_no_gpu(capsys):
    status, out, _ = run(capsys, "selfcheck", "--short", "--json")
    assert (status, json.loads(out)["device"]) == (0, str(CPU))
