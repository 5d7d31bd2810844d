"""SECURITY.md names a test for each defence, and settings: all of them are there."""

import re

import pytest

from lazyneuron.server.config import ServerConfig
from lazyneuron.server.layers import fields


def test_the_tests_that_it_names_are_there(request: pytest.FixtureRequest) -> None:
    root = request.config.rootpath
    text = (root / "SECURITY.md").read_text()
    defences = [line for line in text.split("## Defences")[1].split("\n## ")[0].splitlines() if line.startswith("| ")][
        1:
    ]
    assert len(defences) > 15
    file = ""
    for line in defences:
        named = re.findall(r"`((?:[\w/]+\.py)?)(?:::(\w+))?`", line.split("|")[4])
        assert named, line
        for path, function in named:
            file = path or file
            assert (root / "tests" / file).is_file(), line
            assert not function or f"def {function}(" in (root / "tests" / file).read_text(), f"{file}::{function}"


def test_the_settings_that_it_names_are_there(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "SECURITY.md").read_text()
    known = set(fields(ServerConfig))
    named = re.findall(r"`((?:tls|auth|http|log|page|queue|repository|tracing)\.\w+)`", text)
    assert named
    assert set(named) <= known
