"""Virtual environments of their own, for packages that cannot live beside our code. Kept in build/ between runs."""

import fcntl
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

_BUILD = Path(__file__).parents[2] / "build"


def python_with(name: str, *packages: str, inherit: bool = False) -> Path:
    """Return the Python of `build/NAME`, which has `packages`; skip the test where pip reaches no index.

    With `inherit` it has everything of this environment besides, but `packages` come first.
    """
    environment = _BUILD / name
    python, ready = environment / "bin" / "python", environment / "ready"
    wanted = "\n".join([*packages, *([sysconfig.get_path("purelib")] if inherit else [])])
    _BUILD.mkdir(exist_ok=True)
    with (_BUILD / f"{name}.lock").open("w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_file() and ready.read_text() == wanted:
            return python
        venv.create(environment, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", *packages]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        if done.returncode != 0:
            pytest.skip(f"pip cannot install {', '.join(packages)} here: {done.stderr.strip()[-200:]}")
        if inherit:
            (own,) = environment.glob("lib/python*/site-packages")
            (own / "inherited.pth").write_text(sysconfig.get_path("purelib"))
        ready.write_text(wanted)
    return python
