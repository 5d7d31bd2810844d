"""What `import lazyneuron` and the command promise, wherever they are run."""

import subprocess
import sys

import pytest

import lazyneuron


def run(*args, cwd=None):
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_everything_that_is_promised_is_there():
    assert sorted(lazyneuron.__all__) == dir(lazyneuron)
    for name in lazyneuron.__all__:
        assert getattr(lazyneuron, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lazyneuron.nothing


def test_a_users_own_engine_server_and_exporters_are_left_alone(tmp_path):
    for name in ("engine", "server", "exporters", "proto"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported the wrong module')\n")
    code = "import lazyneuron; [getattr(lazyneuron, n) for n in lazyneuron.__all__]; print('fine')"
    assert run("-c", code, cwd=tmp_path).stdout == "fine\n"
    done = run("-m", "lazyneuron", "serve", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere")


def modules_after(code):
    return set(run("-c", f"{code}\nimport sys; print(*sys.modules)").stdout.split())


def test_help_imports_nothing_heavy():
    loaded = modules_after("from lazyneuron.cli import cli; cli.main(['--help'], standalone_mode=False)")
    assert "lazyneuron.cli" in loaded
    assert not loaded & {"torch", "transformers", "onnx", "onnxruntime", "grpc", "numpy", "pydantic", "matplotlib"}


def test_the_client_needs_no_onnxruntime_and_serving_no_torch():
    assert "onnxruntime" not in modules_after("import lazyneuron; lazyneuron.Client")
    serving = modules_after("import lazyneuron, lazyneuron.server.app; lazyneuron.load")
    assert "onnxruntime" in serving
    assert not serving & {"torch", "transformers", "onnx", "onnxscript", "matplotlib"}


def test_the_server_never_imports_the_exporters_nor_the_engine_grpc(request):
    root = request.config.rootpath
    for folder, forbidden in {
        "engine": ("lazyneuron.server", "lazyneuron.exporters", "lazyneuron.protocol", "grpc"),
        "server": ("lazyneuron.exporters",),
        "exporters": ("lazyneuron.server", "lazyneuron.protocol", "grpc"),
    }.items():
        for file in (root / folder).rglob("*.py"):
            imports = [line for line in file.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            assert not [line for line in imports if line.split()[1].startswith(forbidden)], file


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--help"], 0, "inspect"),
        (["--version"], 0, lazyneuron.__version__),
        ([], 2, "Usage"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["serve"], 2, "Missing argument"),
        (["export", "x", "--output", "y", "--mode", "magic"], 2, "magic"),
        (["serve", "nowhere"], 1, "error: nowhere"),
        (["serve", "--help"], 0, "--debug"),
        (["inspect", "nowhere"], 1, "error: nowhere"),
        (["export", "nowhere", "--output", "out"], 1, "error: nowhere"),
        (["finetune", "nowhere", "--output", "out"], 2, "Missing option '--data'"),
        (["finetune", "nowhere", "--output", "out", "--data", "x", "--top-k", "0"], 2, "Invalid value for '--top-k'"),
        (["finetune", "nowhere", "--output", "out", "--data", "x"], 1, "error: nothing would become sparse"),
        (["finetune", "nowhere", "--output", "out", "--data", "x", "--top-k", "8"], 1, "error: nowhere"),
    ],
)
def test_exit_status_and_words(tmp_path, args, code, says):
    done = run("-m", "lazyneuron", *args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:  # the fault is one line, the last; steps may be told before it
        assert [line.startswith("error: ") for line in done.stderr.splitlines()].index(True) == done.stderr.count(
            "\n"
        ) - 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["--debug", "serve", "nowhere"], ["serve", "nowhere", "--debug"]])
def test_a_traceback_is_shown_when_it_is_asked_for(tmp_path, args):
    done = run("-m", "lazyneuron", *args, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
