"""The systemd unit, as far as systemd itself can judge it here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def unit(request: pytest.FixtureRequest) -> Path:
    return request.config.rootpath / "deploy" / "lazyneuron.service"


def _analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    done = _analyze("verify", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_it_is_confined(unit: Path) -> None:
    done = _analyze("security", "--offline=yes", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout


def test_it_waits_longer_than_admitted_requests_may_take(unit: Path) -> None:
    from lazyneuron.server.config import ServerConfig

    found = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) > ServerConfig().grace_seconds
