"""What is measured at the start, kept, and taken the next time."""

import asyncio
import json
from pathlib import Path

import pytest

from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.model import Model
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Scheduler
from lazyneuron.server.tuning import Setting, Tuner, candidates, made_requests
from tests.support.artifacts import write_image_classifier
from tests.support.server import serving

QUICK = ServerConfig(auto_tune=True, tuning_seconds=0.03)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 8, 64, 96])
def test_settings_use_the_cores_and_no_more_memory_than_there_is(cores: int) -> None:
    found = candidates(cores, copies=4)
    assert len(set(found)) == len(found)
    assert len(found) <= 20
    assert max(s.instances for s in found) <= 4
    assert all(s.threads * s.concurrency <= cores for s in found if s.threads < cores)
    assert Setting(instances=1, threads=cores, concurrency=1) in found
    if cores > 1:
        assert Setting(instances=1, threads=1, concurrency=cores) in found
    if 1 < cores <= 4:
        assert Setting(instances=cores, threads=1, concurrency=cores) in found


@pytest.mark.parametrize("name", ["text", "sequence", "vector"])
def test_requests_are_made_from_the_manifest(repository: Path, name: str) -> None:
    model = Model.load(repository / name, threads=1)
    requests = made_requests(model)
    assert len(requests) > 1
    assert all(request.batch == 1 for request in requests)
    if name != "vector":
        assert len({request.length for request in requests}) > 1
    model.run(requests)


def test_requests_for_images(tmp_path: Path) -> None:
    model = Model.load(write_image_classifier(tmp_path), threads=1)
    model.run(made_requests(model))


def test_it_is_measured_once(repository: Path, tmp_path: Path) -> None:
    setting = Tuner(QUICK, tmp_path).setting(repository / "vector")
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    assert len(kept["measured"]) == len({json.dumps(m["setting"]) for m in kept["measured"]})
    assert all(m["tokens_per_second"] > 0 for m in kept["measured"])
    best = max(kept["measured"], key=lambda m: m["tokens_per_second"])
    assert Setting(**best["setting"]) == setting
    worst = min(kept["measured"], key=lambda m: m["tokens_per_second"])
    worst["tokens_per_second"] = 1e12  # had it been measured again, this would be gone
    file.write_text(json.dumps(kept))
    assert Tuner(QUICK, tmp_path).setting(repository / "vector") == Setting(**worst["setting"])


def test_a_damaged_file_is_measured_again(repository: Path, tmp_path: Path) -> None:
    Tuner(QUICK, tmp_path).setting(repository / "vector")
    (file,) = tmp_path.iterdir()
    file.write_text('{"format_version": 1, "measured"')
    Tuner(QUICK, tmp_path).setting(repository / "vector")
    assert json.loads(file.read_text())["measured"]


def test_a_place_that_cannot_be_written_does_not_stop_the_server(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Tuner(QUICK, tmp_path / "file" / "below").setting(repository / "vector").threads >= 1


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        Tuner(QUICK, tmp_path).setting(tmp_path)


def test_several_sessions_give_what_one_gives(repository: Path) -> None:
    one = Model.load(repository / "text", threads=1)
    several = Model.load(repository / "text", threads=1, instances=3, concurrency=3)
    scheduler = Scheduler(several, ServerConfig(), Metrics())
    requests = made_requests(one) * 5

    async def work() -> list:
        return await asyncio.gather(*(scheduler.submit(request) for request in requests))

    try:
        answers = asyncio.run(work())
    finally:
        scheduler.close()
    for request, answer in zip(requests, answers, strict=True):
        expected = one.run([request]).predictions[0]
        assert answer.prediction.sparsity == expected.sparsity


def test_the_server_measures_tells_and_keeps(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = "auto_tune = true\ntuning_seconds = 0.03\n"
    for words in ("vector version 1, measured:", "vector version 1, from "):
        with serving(repository / "vector", tmp_path / "log", settings) as server:
            log = server.log.read_text()
            assert words in log
            assert "<- taken" in log
    assert len(list((tmp_path / "cache" / "lazyneuron" / "tuning").iterdir())) == 1
