"""The generated code and the protocol's tests under the oldest protobuf and gRPC that pyproject.toml allows.

Everything else runs under those that constraints.txt pins, a major version of protobuf later.
"""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from tests.support.environments import python_with

ROOT = Path(__file__).parents[2]
OURS = ("protobuf", "grpcio", "grpcio-health-checking", "grpcio-reflection")
TESTS = ("test_protocol.py", "test_open_inference.py", "test_tensors.py", "services/test_model_config.py")


def lowest() -> dict[str, str]:
    """The lower bound of each."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    found = (re.match(r"([a-z0-9-]+)>=([0-9.]+)", dependency) for dependency in dependencies)
    bounds = {match[1]: match[2] for match in found if match is not None}
    return {name: bounds[name] + ".0" * (2 - bounds[name].count(".")) for name in OURS}


def test_the_protocol_under_the_oldest_protobuf() -> None:
    versions = lowest()
    python = python_with("oldest", *(f"{name}=={version}" for name, version in versions.items()), inherit=True)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    check = "import google.protobuf, grpc; print(google.protobuf.__version__, grpc.__version__)"
    told = subprocess.run([python, "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [versions["protobuf"], versions["grpcio"]]
    files = [f"tests/server/{name}" for name in TESTS]
    # What the generator writes does not depend on what runs it, and takes long.
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not generat", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 60, done.stdout
    assert "skipped" not in done.stdout
