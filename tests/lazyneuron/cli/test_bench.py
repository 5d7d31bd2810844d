import json
import subprocess
import sys

import pytest

from lazyneuron.engine.cost_files import read_costs
from lazyneuron.exporters.bench import operators
from tests.exporters.bench.test_operators import SMALL
from tests.lazyneuron.cli.test_inspect_and_export import run
from tests.support.artifacts import write_vector_model


@pytest.fixture
def artifact(tmp_path):
    return str(write_vector_model(tmp_path / "models"))


def test_an_artifact(capsys, artifact):
    status, out, err = run(capsys, "bench", artifact, "--batch", "2", "--threads", "1", "--against", "dense")
    assert status == 0
    assert "vector version 1, mode exact, input: random" in out
    assert [line.split()[:2] for line in out.splitlines() if line.split()[:1] == ["2"]] == [
        ["2", "sparse"],
        ["2", "dense"],
    ]
    assert "of the MLP blocks' FLOPs saved" in out
    assert "timing (1)" in err


def test_an_artifact_as_one_document(capsys, artifact):
    status, out, _ = run(capsys, "bench", artifact, "--batch", "2", "--threads", "1", "--json")
    assert status == 0
    assert json.loads(out)["cases"][0]["batch"] == 2


def test_operators(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(operators.GRIDS, "quick", SMALL)
    path = tmp_path / "mine" / "costs.json"
    monkeypatch.setenv("LAZYNEURON_COSTS", str(path))
    status, out, _ = run(capsys, "bench", "--operators", "--quick", "--threads", "1")
    assert status == 0
    assert "d_model 32, d_ff 64" in out
    assert out.splitlines()[-1] == f"kept for `lazyneuron export` in {path}"
    assert read_costs(path).threads == 1


def test_operators_as_one_document(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(operators.GRIDS, "default", SMALL)
    path = tmp_path / "costs.json"
    status, out, _ = run(capsys, "bench", "--operators", "--threads", "1", "--output", str(path), "--json")
    assert status == 0
    document = json.loads(out)
    assert document["path"] == str(path)
    assert {"mode", "weights", "d_model", "d_ff", "rows", "dense", "int8"} == set(document["crossovers"][0])
    assert len(document["curves"]) == len(read_costs(path).curves)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        ([], 2, "give either MODEL or --operators"),
        (["{m}", "--operators"], 2, "give either MODEL or --operators"),
        (["{m}", "--quick"], 2, "--quick, --full and --output go with --operators"),
        (["--operators", "--batch", "1"], 2, "--batch goes with MODEL"),
        (["{m}", "--batch", "0"], 2, "0 is not in the range x>=1"),
        (["{m}", "--against", "torch"], 2, "'torch' is none of dense, int8"),
        (["{m}", "--against", ","], 2, "expected some of dense, int8"),
        (["absent"], 1, "error: absent: no such folder; give a model's folder, or one of its versions"),
        (["{m}", "--length", "4"], 1, "error: length: got 4; expected none: no input of this model has such an axis"),
    ],
)
def test_wrong_usage_and_failures(capsys, artifact, args, status, message):
    got, out, err = run(capsys, "bench", *(a.format(m=artifact) for a in args))
    assert (got, out) == (status, "")
    assert message in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("args", [["--operators"], ["models/m"]])
def test_a_serving_install_says_what_to_install(args):
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnx_ir', 'onnxscript', 'torch'):\n    sys.modules[name] = None\n"
        f"from lazyneuron.cli import main\nmain(['bench', *{args}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: measuring needs onnx")
    assert done.stderr.splitlines()[-1].endswith("pip install 'lazyneuron[export]'")


def test_costs_are_not_kept_in_a_gpus_name(capsys, monkeypatch):
    monkeypatch.setenv("LAZYNEURON_COSTS", "cuda:a100")
    status, _, err = run(capsys, "bench", "--operators", "--quick")
    assert status == 2
    assert "LAZYNEURON_COSTS=cuda:a100 names a GPU's roofline, not a file; give --output FILE" in err
