import json
import subprocess
import sys

import pytest

from tests.exporters.evaluation.planted import capped, exact, labelled_texts, write_lines
from tests.lazyneuron.cli.test_inspect_and_export import run


@pytest.fixture
def data(tmp_path):
    return str(labelled_texts(tmp_path / "data.jsonl", exact(tmp_path / "reference"), 20))


def test_a_table_and_the_verdict_last(capsys, tmp_path, data):
    status, out, err = run(capsys, "evaluate", str(capped(tmp_path)), "--data", data, "--threads", "1")
    assert status == 0
    assert "capped version 1, mode exact, task classification" in out
    assert "data.jsonl: 20 examples, labelled" in out
    assert [line.split()[:2] for line in out.splitlines() if line.split()[:1] == ["accuracy"]] == [
        ["accuracy", "100.00%"]
    ]
    assert "of the MLP blocks' FLOPs saved" in out
    assert out.splitlines()[-1].startswith("no-go: ")
    assert "comparing (20)" in err


def test_one_document(capsys, tmp_path, data):
    arguments = ["--data", data, "--threads", "1", "--max-quality-drop", "1", "--json"]
    status, out, _ = run(capsys, "evaluate", str(capped(tmp_path)), *arguments)
    assert status == 0
    document = json.loads(out)
    assert document["verdict"]["decision"] in {"go", "not worth it"}
    assert document["max_quality_drop"] == 1


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["{m}"], 2, "Missing option '--data'"),
        (["{m}", "--data", "{d}", "--max-quality-drop", "2"], 2, "2.0 is not in the range"),
        (["{m}", "--data", "absent.jsonl"], 1, "error: absent.jsonl: no such file"),
        (["absent", "--data", "{d}"], 1, "error: absent: no such folder; give a model's folder"),
        (["{m}", "--data", "{w}"], 1, "line 1: label is 7; expected 0 to 2"),
    ],
)
def test_wrong_usage_and_failures(capsys, tmp_path, data, args, status, message):
    wrong = write_lines(tmp_path / "wrong.jsonl", [{"text": "lazy", "label": 7}])
    places = {"m": exact(tmp_path), "d": data, "w": wrong}
    got, out, err = run(capsys, "evaluate", *(a.format(**places) for a in args))
    assert (got, out) == (status, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_a_serving_install_says_what_to_install():
    code = (
        "import sys\n"
        "for name in ('onnx', 'onnx_ir', 'onnxscript', 'torch'):\n    sys.modules[name] = None\n"
        "from lazyneuron.cli import main\nmain(['evaluate', 'models/m', '--data', 'data.jsonl'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: measuring needs onnx")
