"""The commands as a person and a program run them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lazyneuron.cli import main
from tests.exporters import graphs
from tests.exporters.activations import CONSTANTS, FORMS


def run(capsys, *args: str) -> tuple[int, str, str]:
    """Run the command; return its exit status, standard output and standard error."""
    status = 0
    try:
        main(list(args))
    except SystemExit as ended:
        status = int(ended.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())


def test_inspect_shows_a_table(capsys, checkpoint):
    status, out, err = run(capsys, "inspect", str(checkpoint))
    assert status == 0
    assert "enc.mlp" in out
    assert "On random input" in out
    assert err.splitlines()[0] == f"reading {checkpoint}"


def test_inspect_prints_one_document(capsys, checkpoint):
    status, out, _ = run(capsys, "inspect", str(checkpoint), "--json")
    assert status == 0
    document = json.loads(out)
    assert document["blocks"][0]["name"] == "enc.mlp"
    assert 0 < document["blocks"][0]["density"] < 1
    assert document["skipped"] == []


def test_inspect_tells_programs_everything(capsys, checkpoint, tmp_path):
    x = np.random.default_rng(0).standard_normal((40, 6, graphs.D)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    command = ["inspect", str(checkpoint), "--calibration", str(tmp_path / "data.npz")]
    status, out, err = run(capsys, *command, "--json", "--plot", str(tmp_path / "p.png"))
    assert status == 0, err
    document = json.loads(out)
    (block,) = document["blocks"]
    low, high = block["density_interval"]
    assert low < block["density"] < high
    assert [(p["first"], p["last"], p["rows"]) for p in block["density_by_position"]] == [
        (0, 0, 40),
        (1, 3, 120),
        (4, 15, 80),
    ]
    by_rows = sum(p["rows"] * p["density"] for p in block["density_by_position"]) / block["rows"]
    assert (block["rows"], by_rows) == (240, pytest.approx(block["density"]))
    assert all(block["density"] < share <= 1 for share in block["density_of_union"].values())
    assert 0 < block["activations_of_hottest"]["1"] < block["activations_of_hottest"]["50"] <= 1
    weights = graphs.weights()
    held_out = np.mean(x[-8:] @ weights["up"] + weights["up_bias"] > 0)
    assert held_out <= block["candidates"] < held_out + 0.1
    (warning,) = document["warnings"]
    assert warning.startswith("240 rows are few")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = run(capsys, *command)
    assert "240 rows are few" in out
    assert "Density by a row's position in its example" in out


def test_inspect_refuses_a_pictures_name_before_it_works(capsys, checkpoint):
    status, _, err = run(capsys, "inspect", str(checkpoint), "--plot", "picture.gif")
    assert status == 1
    assert "picture.gif: it ends in '.gif'; expected a picture's name" in err
    assert "calibrating" not in err


def test_inspect_names_what_was_not_taken(capsys, tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(graphs.node("Tanh", "pre", "h")), graphs.weights())
    status, out, _ = run(capsys, "inspect", str(path))
    assert status == 0
    assert "No MLP block was found" in out
    assert "not taken: enc.mlp: its activation is tanh, which is never near zero" in out


def test_inspect_says_that_it_cannot_help_with_the_numbers(capsys, tmp_path):
    nodes = graphs.plain_nodes()
    nodes[2:3] = FORMS["silu, composed"][1]
    path = graphs.save(tmp_path / "m.onnx", nodes, graphs.weights() | CONSTANTS)
    status, out, _ = run(capsys, "inspect", str(path))
    assert status == 0
    words = " ".join(out.split())
    assert "(silu)" in words
    assert "Exact skipping cannot help this checkpoint: 100.0% of the neurons are active" in words
    assert "at most 0.0% of the MLP blocks' operations are for zeros" in words
    _, out, _ = run(capsys, "inspect", str(path), "--json")
    document = json.loads(out)
    assert [(b["activation"], b["gated"]) for b in document["blocks"]] == [("silu", False)]
    assert document["blocks"][0]["density"] == pytest.approx(1, abs=1e-3)
    assert document["verdict"]["helps"] is False
    assert document["verdict"]["saved_exact"] == pytest.approx(0, abs=1e-3)


def test_export_says_what_it_made(capsys, checkpoint, tmp_path):
    status, out, _ = run(capsys, "export", str(checkpoint), "--output", str(tmp_path / "plain"), "--top-k", "4")
    assert status == 0
    assert out.splitlines()[0] == str(tmp_path / "plain" / "1")
    assert "enc.mlp: density" in out
    assert "; exact" in out
    assert "at most 4" in out
    assert (tmp_path / "plain" / "1" / "report.html").is_file()


def test_export_prints_one_document(capsys, checkpoint, tmp_path):
    status, out, _ = run(capsys, "export", str(checkpoint), "--output", str(tmp_path / "plain"), "--json")
    assert status == 0
    document = json.loads(out)
    assert document["path"] == str(tmp_path / "plain" / "1")
    assert document["version"] == 1
    assert document["plan"][0]["name"] == "enc.mlp"


def test_export_explains_what_was_weighed(capsys, checkpoint, tmp_path):
    status, out, _ = run(capsys, "export", str(checkpoint), "--output", str(tmp_path / "m"), "--rows", "9", "--explain")
    assert status == 0
    assert "Predicted µs a row, in calls of 9 rows" in out
    words = next(line.split() for line in out.splitlines() if "dense" in line and "certified" in line)
    assert words[-4:] == ["dense", "exact", "certified", "plan"]
    assert "not of this machine" in out.splitlines()[-1]


def test_export_explains_that_nothing_was_weighed(capsys, checkpoint, tmp_path):
    args = ["export", str(checkpoint), "--output", str(tmp_path / "m"), "--mode", "exact", "--explain"]
    status, out, _ = run(capsys, *args)
    assert status == 0
    assert out.splitlines()[-1] == "plan: --mode exact; nothing was weighed (--mode auto weighs)"


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["inspect", "absent.onnx"], 1, "error: absent.onnx: no such file"),
        (["inspect", "absent.py:f"], 1, "error: absent.py: no such file"),
        (["inspect", "{m}", "--calibration", "absent.jsonl"], 1, "error: absent.jsonl: no such file"),
        (
            ["export", "{m}", "--output", "{o}", "--mode", "predictor"],
            1,
            "error: mode predictor needs calibration data",
        ),
        (["export", "{m}", "--output", "{o}", "--predictor-recall", "1"], 2, "--predictor-recall"),
        (["export", "{m}", "--output", "{o}", "--predictor-rank", "0"], 2, "'0' is neither auto nor a whole number"),
        (["export", "{m}", "--output", "{o}", "--quantize", "int4"], 2, "'int4' is not one of"),
        (["export", "{m}", "--output", "{o}", "--mode", "fast"], 2, "'fast' is not one of"),
        (["export", "{m}", "--output", "{o}", "--top-k", "0"], 2, "'0' is neither auto nor a whole number"),
        (["export", "{m}", "--output", "{o}", "--version", "0"], 2, "--version"),
        (["export", "{m}", "--output", "{o}", "--nonsense"], 2, "No such option"),
        (
            ["export", "{m}", "--output", "{o}", "--costs", "absent.json"],
            1,
            "error: absent.json: no such file; measure",
        ),
        (["export", "{m}", "--output", "{o}", "--plan", "absent.json"], 1, "error: absent.json: no such file; a plan"),
        (["export", "{m}", "--output", "{o}", "--rows", "0"], 2, "--rows"),
        (["export", "{m}"], 2, "Missing option '--output'"),
        (["inspect"], 2, "Missing argument 'CHECKPOINT'"),
    ],
)
def test_wrong_usage_and_failures(capsys, checkpoint, tmp_path, args, status, message):
    args = [a.format(m=checkpoint, o=tmp_path / "models") for a in args]
    got, out, err = run(capsys, *args)
    assert (got, out) == (status, "")
    assert message in err.splitlines()[-1] if status == 1 else message in err
    assert not (tmp_path / "models").exists()


def test_other_libraries_say_nothing(tmp_path):
    """torch's exporter is loud; what the person's own file prints goes to standard error."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    parts = torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)\n"
        "    print('chatter')\n"
        "    return Named(torch.nn.Sequential(*parts)), {'x': torch.randn(2, 3, 4)}\n"
        "class Named(torch.nn.Module):\n"
        "    def __init__(self, inner):\n"
        "        super().__init__()\n"
        "        self.inner = inner\n"
        "    def forward(self, x):\n"
        "        return self.inner(x)\n"
    )
    command = [sys.executable, "-m", "lazyneuron", "inspect", f"{tmp_path / 'net.py'}:net", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [b["name"] for b in json.loads(done.stdout)["blocks"]] == ["inner"]
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "reading",
        "chatter",
        "finding",
        "calibrating",
        "calibrating",
        "counting",
    ]


def test_help_loads_nothing_heavy():
    heavy = "torch onnx onnx_ir onnxscript onnxruntime transformers matplotlib jinja2 numpy"
    code = (
        "import sys\nfrom lazyneuron.cli import main\n"
        "try:\n    main(['export', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy.split()} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-quality-drop" in done.stdout
    assert done.stderr.strip() == "[]"


def test_a_missing_extra_says_how_to_get_it():
    code = (
        "import sys\nsys.modules['torch'] = None\nsys.modules['onnx_ir'] = None\n"
        "from lazyneuron.cli import main\nmain(['inspect', 'm.onnx'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: exporting needs ")
    assert done.stderr.splitlines()[-1].endswith("pip install 'lazyneuron[export]'")


def test_a_gpus_data_sheet_stands_for_costs(capsys, checkpoint, tmp_path):
    args = ["export", str(checkpoint), "--output", str(tmp_path / "m"), "--costs", "cuda:a100", "--explain"]
    status, out, _ = run(capsys, *args)
    assert status == 0
    words = "Costs not measured: the least times that the data sheet of NVIDIA A100 80 GB SXM allows"
    assert words in out
    assert words in json.loads((tmp_path / "m" / "1" / "plan.json").read_text())["costs"]
    assert words in (tmp_path / "m" / "1" / "report.html").read_text()
    status, _, err = run(capsys, "export", str(checkpoint), "--output", str(tmp_path / "n"), "--costs", "cuda:b100")
    assert status == 1
    assert "expected one of cuda:a100, cuda:h100, cuda:h200" in err
