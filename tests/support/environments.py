"""Virtual environments of their own, for clients that cannot live beside our code. Kept in build/ between runs."""

import fcntl
import subprocess
import venv
from pathlib import Path

import pytest

_BUILD = Path(__file__).parents[2] / "build"


def python_with(name: str, package: str) -> Path:
    """Return the Python of `build/NAME`, which has `package`; skip the test where pip reaches no index."""
    environment = _BUILD / name
    python, ready = environment / "bin" / "python", environment / "ready"
    _BUILD.mkdir(exist_ok=True)
    with (_BUILD / f"{name}.lock").open("w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_file() and ready.read_text() == package:
            return python
        venv.create(environment, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", package]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            pytest.skip(f"pip cannot install {package} here: {done.stderr.strip()[-200:]}")
        ready.write_text(package)
    return python
