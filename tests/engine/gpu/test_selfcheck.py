import os
import re
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from lazyneuron.engine import reference
from lazyneuron.engine.devices import found as looking
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.devices.found import lacking
from lazyneuron.engine.errors import ArtifactError, ConfigurationError
from lazyneuron.engine.gpu import driver, selfcheck, speed
from lazyneuron.engine.gpu.cases import WEIGHTS, model_sized_cases, short_cases, small_cases
from lazyneuron.engine.gpu.places import described, open_on
from lazyneuron.engine.gpu.selfcheck import TOLERANCE, check, compare, short
from lazyneuron.engine.gpu.speed import Setting
from lazyneuron.engine.machine import INSTRUCTION_SET_VARIABLE, instruction_sets
from tests.engine.native.operators import calls

GPU = Device("cuda", 0)
no_cuda = pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this one has CUDA")


@pytest.fixture(scope="module")
def cases():
    return {(case.mode, case.weights): case for case in short_cases()}


@pytest.fixture
def gpu(monkeypatch):
    """A device that computes as the CPU does, unless a test spoils what it gives."""
    spoil = SimpleNamespace(outputs=lambda got: got, spared="")
    run = selfcheck._run

    def pretended(case, place, instruction_set=None, down=None):
        got = run(case, CPU, instruction_set=instruction_set)
        return spoil.outputs(got) if place == GPU and down != spoil.spared else got

    monkeypatch.setattr(selfcheck, "_run", pretended)
    return spoil


def right(case):
    expected = case.reference()
    got = {"y": expected.y, "active": expected.active, "candidates": expected.fewest}
    return {name: array.copy() for name, array in got.items() if array is not None}, expected


def test_the_cpu_agrees_with_the_reference():
    assert short(CPU) == []


def test_every_mode_and_type_of_weights_is_among_the_short_cases(cases):
    assert set(cases) == {(mode, w) for mode in ("down", "certified", "predictor", "gate") for w in WEIGHTS}
    for case in cases.values():
        assert {0.0, 0.5, 1.0} <= set(case.arrays["budget"].tolist())
        assert np.isnan(case.reference().y).any()
        assert case.attributes["top_k"] > 0


def test_small_and_ties_and_further_options_agree_on_one_instruction_set(monkeypatch):
    monkeypatch.setattr(selfcheck, "instruction_sets", lambda: instruction_sets()[:1])
    checks = selfcheck.full(CPU, small=True)
    assert [check.disagreements for check in checks if check.disagreements] == []
    assert {"ties", "small, shifted screen", "small, relu2"} <= {check.case.data for check in checks}


def test_a_model_sized_case_agrees(monkeypatch):
    monkeypatch.setattr(selfcheck, "instruction_sets", lambda: instruction_sets()[:1])
    case = next(iter(model_sized_cases(rows=(1,))))
    (done,) = check(case, CPU)
    assert done.disagreements == ()
    assert case.neurons == 3072


def test_counts_do_not_hang_on_rounding():
    """What makes it fair to want equal counts: inputs that are off as sums may be give the same ones."""
    for case in small_cases():
        name = "pre" if case.mode == "down" else "x"
        moved = {**case.arrays, name: case.arrays[name] * np.float32(1 + 2e-6)}
        if case.data == "ties":
            continue  # there the sums are exact
        run = reference.sparse_down if case.mode == "down" else reference.sparse_mlp
        np.testing.assert_array_equal(run(**moved, **case.attributes)[1], case.reference().active)


def test_ties_are_there():
    (case,) = (case for case in small_cases() if case.data == "ties" and case.mode == "down")
    values = np.sort(case.arrays["pre"] + case.arrays["up_bias"], axis=1)[:, ::-1]
    assert (values[:, 10] == values[:, 11]).sum() > len(values) / 2  # of the last that is kept and the next


def test_what_is_right_agrees(cases):
    for case in cases.values():
        got, expected = right(case)
        done = compare(case, "here", got, expected)
        assert (done.disagreements, done.error) == ((), 0.0)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("y", lambda a: a + 3e-4 * np.nanmax(np.abs(a)), "y is off by 3.0e-04 of its largest entry, tolerance 1e-04"),
        ("y", lambda a: np.nan_to_num(a), r"y is 0 at \[2, 0\], expected nan at \[2, 0\] \(52 entries\)"),
        ("y", lambda a: a[:, :-1], r"y has the shape \(19, 51\), expected \(19, 52\)"),
        ("active", lambda a: a + (np.arange(len(a)) == 4), r"active is \d+ in row 4, expected \d+$"),
        ("candidates", lambda a: a * 0, r"candidates is 0 in row 0, expected \d+ to 203"),
        ("candidates", lambda a: a[:-1], r"candidates has the shape \(18,\), expected \(19,\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_figures(cases, name, change, words):
    case = cases["certified", "float16"]
    got, expected = right(case)
    got[name] = change(got[name])
    (found,) = compare(case, "cuda:0", got, expected).disagreements
    assert str(found).startswith("SparseMLP certified, float16 weights (small) on cuda:0: ")
    assert re.search(words, found.figures), found.figures


def test_a_gpu_that_computes_as_the_cpu_does(gpu):
    assert short(GPU) == []


def test_a_gpu_that_does_not_is_found_in_each_case(gpu):
    gpu.outputs = lambda got: got | {"y": got["y"] * np.float32(1.001)}
    found = short(GPU)
    assert len(found) == 4 * len(WEIGHTS)
    assert all(f"tolerance {TOLERANCE:.0e}" in str(one) and "cuda:0" in str(one) for one in found)


def test_both_ways_to_project_down_are_checked(gpu, monkeypatch, cases):
    monkeypatch.setattr(selfcheck, "small_cases", lambda: iter([cases["gate", "bfloat16"]]))
    gpu.outputs, gpu.spared = lambda got: got | {"y": got["y"] * np.float32(1.001)}, "rows"
    rows, tiles = selfcheck.full(GPU, small=True)
    assert (rows.where, rows.disagreements) == ("cuda:0, by rows", ())
    assert "on cuda:0, by tiles: y is off by " in str(tiles.disagreements[0])


def test_a_gpus_session_has_no_way_round_it(monkeypatch, cases):
    asked = {}

    def opened(model, options, *, providers, enable_fallback):
        asked.update(providers=providers, fallback=options.get_session_config_entry("session.disable_cpu_ep_fallback"))
        asked.update(down=os.environ.get("LAZYNEURON_GPU_DOWN"))
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", opened)
    with pytest.raises(ArtifactError, match="CUDA provider failed on cuda:0"):
        open_on(GPU, cases["gate", "int8"].graph(), down="tiles")
    assert asked == {
        "providers": [("CUDAExecutionProvider", {"device_id": "0", "use_tf32": "0"})],
        "fallback": "1",
        "down": "tiles",
    }
    assert "LAZYNEURON_GPU_DOWN" not in os.environ


def test_a_gpus_screen_may_round_otherwise_but_not_much(gpu, cases):
    case = cases["certified", "float32"]
    gpu.outputs = lambda got: (
        got | {"candidates": got["candidates"] + np.isin(got["candidates"], (0, 203), invert=True)}
    )
    (done,) = check(case, GPU)
    assert done.disagreements == ()
    gpu.outputs = lambda got: got | {"candidates": np.where(got["candidates"] > 0, 203, 0)}
    (done,) = check(case, GPU)
    assert "candidates is 203 in row 0" in done.disagreements[0].figures
    (done,) = check(cases["gate", "float32"], GPU)
    assert done.disagreements[0].figures.startswith("candidates")


def test_what_a_device_refuses_disagrees_in_its_words(monkeypatch, cases):
    def refused(place, model, **options):
        raise ArtifactError("ONNX Runtime refuses it on cuda:0: no kernel")

    expected = selfcheck._on_cpu(cases["down", "int8"])
    monkeypatch.setattr(selfcheck, "_on_cpu", lambda case: expected)
    monkeypatch.setattr(selfcheck, "open_on", refused)
    (done,) = check(cases["down", "int8"], GPU)
    assert np.isnan(done.error)
    assert str(done.disagreements[0]) == (
        "SparseDown, int8 weights (small) on cuda:0: ONNX Runtime refuses it on cuda:0: no kernel"
    )


def test_a_gpus_graph_has_bfloat16_weights_and_the_cpus_the_same_numbers(cases):
    case = cases["predictor", "bfloat16"]
    kinds = {
        half: {i.name: i.data_type for i in onnx.load_model_from_string(case.graph(bfloat16=half)).graph.initializer}
        for half in (False, True)
    }
    assert {kinds[True][name] for name in ("up", "down")} == {onnx.TensorProto.BFLOAT16}
    assert {kinds[False][name] for name in ("up", "down")} == {onnx.TensorProto.FLOAT}
    for name in ("up", "down"):
        assert not (case.arrays[name].view(np.uint32) & 0xFFFF).any()


def test_the_instruction_set_that_is_asked_for_runs(monkeypatch, cases):
    monkeypatch.setenv(INSTRUCTION_SET_VARIABLE, instruction_sets()[0])
    case, last = cases["down", "float32"], instruction_sets()[-1]
    before = calls(last)
    open_on(CPU, case.graph(), instruction_set=last).run(["y"], case.feeds)
    assert calls(last) > before
    assert os.environ[INSTRUCTION_SET_VARIABLE] == instruction_sets()[0]


@no_cuda
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_without_cuda_no_session_is_opened_on_a_gpu(cases):
    with pytest.raises(ArtifactError, match="on cuda:0"):
        open_on(GPU, cases["down", "float32"].graph())
    assert (
        "is built without its CUDA provider; docs/serving.md, Devices, says how to install the one that has it"
        in lacking(GPU)
    )


def test_what_a_gpu_lacks(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(looking, "_provider_lacks", lambda index: "")
    monkeypatch.setattr(driver, "devices", list)
    monkeypatch.setattr(driver, "why_none", lambda: "libcuda.so.1 is not there")
    assert lacking(GPU) == "libcuda.so.1 is not there"
    monkeypatch.setattr(driver, "devices", lambda: [SimpleNamespace(index=0, name="NVIDIA H200")])
    assert lacking(GPU) == ""
    assert described(GPU) == "cuda:0 (NVIDIA H200)"
    assert lacking(Device("cuda", 3)) == "no such device; the driver shows cuda:0"
    assert lacking(CPU) == ""


def test_devices_are_read():
    assert [Device.of(text) for text in ("cpu", "cuda:12")] == [CPU, Device("cuda", 12)]
    for wrong in ("cuda", "gpu", "cuda:-1", "cuda:x", ""):
        with pytest.raises(ConfigurationError, match="expected cpu, or a GPU as cuda:0"):
            Device.of(wrong)


def test_every_mode_is_timed_beside_the_dense_block():
    setting = Setting(
        d_model=32, d_ff=96, rows=(1, 4), densities=(0.1, 0.5), weights=("float32", "int8"), seconds=0.001
    )
    found = list(speed.measure(CPU, setting))
    assert len(found) == 4 * 2 * 2 * 2
    for one in found:
        assert one.seconds > 0
        assert one.times_as_fast("float32") == one.dense["float32"] / one.seconds
        assert 0 < one.candidates <= 1
    sparse, dense = ({one.candidates for one in found if one.mode == "exact" and one.density == d} for d in (0.1, 0.5))
    assert max(sparse) < min(dense)
