"""The compiled kernels are those of the sources, and the table says what is in them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lazyneuron.engine.gpu import build
from lazyneuron.engine.gpu.configurations import ACTIVATIONS, CONFIGURATIONS, FLAGS, POISONED, SEGMENTS, SKIPPED
from lazyneuron.engine.reference import ACTIVATIONS as REFERENCE_ACTIVATIONS
from tests.engine.gpu.interpreter import Interpreter

GRID_WORDS = {"1", "rows", "row_tiles", "neuron_tiles", "column_tiles", "splits"}
TYPES = {"u64": re.compile(r"\*(f32|f16|bf16|i8|i32)"), "u32": re.compile("i32"), "f32": re.compile("f32")}


def table() -> list[str]:
    return (build.FOLDER / build.TABLE).read_text().splitlines()


def entries() -> dict[str, list[str]]:
    lines = [line.split(" ") for line in table()[1:] if not line.startswith("#")]
    return {line[0]: line for line in lines}


def test_the_kernels_are_compiled_from_these_sources() -> None:
    assert table()[0] == "lazyneuron-gpu-kernels 1"
    digest = next(line.split()[-1] for line in table() if line.startswith("# sources"))
    assert digest == build.sources_digest(), "the kernels changed since they were compiled: make gpu-kernels"


def test_the_kernels_are_compiled_by_the_pinned_triton() -> None:
    constraints = Path(__file__).parents[3] / "constraints.txt"
    pinned = re.search(r"^triton==(\S+?);", constraints.read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"# triton {pinned[1]}, PTX 8.0 for sm_80" in table()


def test_table_and_folder_hold_the_same_kernels() -> None:
    files = {path.stem for path in build.FOLDER.glob("*.ptx")}
    assert files == set(entries()) == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_table_describes_the_ptx(name: str) -> None:
    _, entry, warps, shared, *tiles, hidden, signature, grid = entries()[name]
    ptx = (build.FOLDER / f"{name}.ptx").read_text()
    assert "/" not in "".join(re.findall(r"\.file.*", ptx))  # no paths of whoever compiled it
    assert ".version 8.0\n.target sm_80\n" in ptx
    assert re.findall(r"\.visible \.entry (\w+)", ptx) == [entry]
    assert f".reqntid {32 * int(warps)}\n" in ptx
    given = re.findall(r"\.param \.(\w+)", ptx.split(".entry", 1)[1].split(")", 1)[0])
    types = signature.split(",")
    assert len(given) == len(types) + int(hidden)
    for got, expected in zip(given, types, strict=False):
        assert TYPES[got].fullmatch(expected)
    assert set(given[len(types) :]) == {"u64"}
    assert set(grid.split(",")) <= GRID_WORDS
    for word, tile in zip(("row_tiles", "neuron_tiles", "depth", "column_tiles"), tiles, strict=True):
        assert int(tile) > 0 or word not in grid
    # What any GPU since sm_70 gives a block without being asked.
    assert int(shared) <= 48 * 1024


def test_what_the_kernels_and_others_call_by_number(gpu: Interpreter) -> None:
    flags, states = gpu("constants", {})
    assert flags == FLAGS
    assert states == (POISONED, SKIPPED, SEGMENTS)
    assert tuple(REFERENCE_ACTIVATIONS) == ACTIVATIONS
    header = (Path(build.__file__).parents[1] / "native/kernels/kernels.h").read_text()
    names = re.search(r"enum class Activation \{([^}]*)\}", header)
    assert names is not None
    spelled = {"gelutanh": "gelu_tanh"}
    listed = [name.strip().removeprefix("k").lower() for name in names[1].split(",")]
    assert [spelled.get(name, name) for name in listed] == list(ACTIVATIONS)
    assert f"kPoisoned = {POISONED};" in header
    assert f"kSkipped = {SKIPPED};" in header


def test_compiling_again_gives_the_same(tmp_path: Path) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    program = """
import json, sys
from lazyneuron.engine.gpu import build
from lazyneuron.engine.gpu.configurations import CONFIGURATIONS
compiled = [(one, build.compile_kernel(one)) for one in map(CONFIGURATIONS.get, sys.argv[1:])]
print(json.dumps([[build.line(one, kernel), kernel.asm["ptx"]] for one, kernel in compiled]))
"""
    names = ["reduce_down", "list_masked"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", program, *names], env=environment, check=True, capture_output=True, text=True
    )
    for name, (line, ptx) in zip(names, json.loads(done.stdout), strict=True):
        assert line == " ".join(entries()[name])
        assert ptx == (build.FOLDER / f"{name}.ptx").read_text()


def test_neither_serving_nor_the_operator_library_imports_triton() -> None:
    program = """
import sys
import lazyneuron.engine.model, lazyneuron.engine.session, lazyneuron.server, lazyneuron.cli
from lazyneuron.engine.gpu import configurations
sys.exit("triton" in sys.modules or "torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
