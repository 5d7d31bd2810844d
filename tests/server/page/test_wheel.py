"""What is installed holds the page's files: templates, style sheet and script are no Python."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("scikit_build_core", reason="`pip install scikit-build-core` brings what builds the wheel")

_BUILD = """
import sys
from scikit_build_core.build import build_wheel
build_wheel(sys.argv[1], {"wheel.cmake": "false", "build-dir": sys.argv[1] + "/build"})
"""


def test_the_wheel_holds_the_page(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-c", _BUILD, str(tmp_path)]
    done = subprocess.run(command, cwd=request.config.rootpath, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    page = request.config.rootpath / "server" / "page"
    wanted = {path for kind in ("templates", "static") for path in (page / kind).iterdir()}
    assert len(wanted) >= 6
    assert {f"lazyneuron/server/page/{path.relative_to(page)}" for path in wanted} <= held
