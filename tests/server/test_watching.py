"""Following a folder: by events, by looks, and when one of them fails."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from lazyneuron.server import watching
from lazyneuron.server.config import RepositoryConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.serving import Serving
from tests.support.artifacts import write_vector_model


def follow(tmp_path: Path, watch: str, rescan_seconds: float) -> None:
    """Serve a model, put its next version there, and wait until that is served."""
    write_vector_model(tmp_path / "models")
    next_one = write_vector_model(tmp_path / "staged", version=2)
    settings = RepositoryConfig(watch=watch, rescan_seconds=rescan_seconds)

    async def main() -> None:
        serving = Serving(tmp_path / "models", ServerConfig(threads=1, repository=settings), Metrics())
        await serving.start()
        for _ in range(10):  # the watch begins
            await asyncio.sleep(0.05)
        next_one.rename(tmp_path / "models" / "vector" / "2")
        while serving.find("vector").model.version != 2:
            await asyncio.sleep(0.01)
        await serving.stop()
        serving.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_events_alone_are_enough(tmp_path: Path) -> None:
    follow(tmp_path, "events", rescan_seconds=1000)


def test_looks_alone_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: Any, **options: Any) -> None:
        raise AssertionError("no events are wanted")

    monkeypatch.setattr(watching, "awatch", none)
    follow(tmp_path, "poll", rescan_seconds=0.05)


def test_without_events_the_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr(watching, "awatch", refused)
    follow(tmp_path, "events", rescan_seconds=0.05)
    assert "OS file watch limit reached" in caplog.text


def test_a_look_that_fails_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lazyneuron.server.repository import Repository

    rescan, failures = Repository.rescan, iter([True, True])

    async def failing(repository: Repository) -> None:
        if next(failures, False):
            raise RuntimeError("a fault")
        await rescan(repository)

    monkeypatch.setattr(Repository, "rescan", failing)
    follow(tmp_path, "poll", rescan_seconds=0.05)
    assert [record.levelno for record in caplog.records if "watching" in record.message] == [logging.ERROR] * 2
