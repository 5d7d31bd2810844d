"""The choice of an instruction set, and proof that the chosen one ran."""

import subprocess
import sys

import numpy as np
import pytest

import lazyneuron
from tests.engine.native import operators
from tests.engine.native.operators import Case

SMALL = Case({"pre": np.ones((2, 3), np.float32), "down": np.ones((3, 5), np.float32)}, {})


def test_the_forced_set_runs(isa: str) -> None:
    before = {name: operators.calls(name) for name in operators.supported()}
    SMALL.run(isa)
    after = {name: operators.calls(name) for name in operators.supported()}
    assert [name for name in after if after[name] > before[name]] == [isa]


def test_the_best_set_is_the_default() -> None:
    best = operators.supported()[0]
    before = operators.calls(best)
    SMALL.run()
    assert operators.calls(best) > before


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "neon" if "neon" not in operators.supported() else "avx2"])
def test_a_wrong_name_is_refused_with_the_right_ones(name: str) -> None:
    with pytest.raises(Exception, match="LAZYNEURON_ISA") as caught:
        SMALL.run(name)
    message = str(caught.value)
    assert "SparseDown node 'block/mlp'" in message
    assert f"is '{name}', expected one that this machine supports: {', '.join(operators.supported())}" in message


def test_the_library_needs_none_of_our_python(tmp_path) -> None:
    feeds = {"pre": SMALL.arrays["pre"]}
    path = tmp_path / "model.onnx"
    path.write_bytes(operators.model(feeds, {"down": SMALL.arrays["down"]}))
    script = f"""
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.register_custom_ops_library({str(lazyneuron.operator_library())!r})
session = onnxruntime.InferenceSession({str(path)!r}, options)
y, active = session.run(None, {{"pre": numpy.ones((2, 3), numpy.float32)}})
assert (y == 3).all() and y.shape == (2, 5) and (active == 3).all()
assert not [name for name in sys.modules if name.startswith("lazyneuron")]
"""
    subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=tmp_path, timeout=60)


def test_output_shapes_are_inferred() -> None:
    feeds, constants = {"pre": SMALL.arrays["pre"]}, {"down": SMALL.arrays["down"]}
    named = operators.session(operators.model(feeds, constants, {"pre": ["batch", 3]}))
    assert [(o.name, o.shape, o.type) for o in named.get_outputs()] == [
        ("y", ["batch", 5], "tensor(float)"),
        ("active", ["batch"], "tensor(int32)"),
    ]
    fixed = operators.session(operators.model(feeds, constants, {"pre": [7, 3]}))
    assert [o.shape for o in fixed.get_outputs()] == [[7, 5], [7]]


def test_the_library_exports_only_what_it_must() -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", str(lazyneuron.operator_library())], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listing.stdout.splitlines()}
    cuda = {"lazyneuron_cuda_devices", "lazyneuron_cuda_device"}
    assert names == {"RegisterCustomOps", "lazyneuron_instruction_sets", "lazyneuron_kernel_calls"} | cuda
