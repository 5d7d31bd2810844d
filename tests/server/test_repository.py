"""Which versions are served, and how one takes another's place: the real parts, without sockets."""

import asyncio
import errno
import json
import shutil
import threading
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lazyneuron.engine.artifact import digest
from lazyneuron.engine.errors import (
    ArtifactError,
    ConfigurationError,
    ModelLoadError,
    ModelNotFoundError,
    ModelUnavailableError,
    ShuttingDownError,
)
from lazyneuron.engine.signature import new_key, sign
from lazyneuron.server.calls import Call, _current
from lazyneuron.server.config import RepositoryConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.serving import Serving
from tests.support.artifacts import Size, write_sequence_encoder, write_vector_model

X = {"x": np.ones((1, 16), np.float32)}


class Started:
    """A repository that is served, with nothing that watches it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.metrics = Metrics()
        config = ServerConfig(threads=1, repository=RepositoryConfig(watch="off", **settings))
        self.serving = Serving(path, config, self.metrics)
        self.repository = self.serving.repository

    async def rescanned(self) -> None:
        """Look at the folder and wait until everything is as it says."""
        await self.repository.rescan()
        await self.settled()

    async def settled(self) -> None:
        while tasks := set(self.repository._tasks):
            await asyncio.wait(tasks)

    async def ask(self, name: str = "vector", version: int | None = None) -> int:
        _current.set(Call("/test"))
        served = self.serving.find(name, version)
        await self.serving.predict(served, lambda: X, size=0)
        return served.model.version

    def states(self) -> dict[tuple[str, str], str]:
        return {(entry.name, entry.version): entry.state for entry in self.repository.index()}

    def reason(self, name: str, version: int) -> str:
        return next(e.reason for e in self.repository.index() if (e.name, e.version) == (name, str(version)))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"lazyneuron_{name}", labels)


def run(path: Path, test: Callable[[Started], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        started = Started(path, **settings)
        await started.serving.start()
        try:
            await test(started)
        finally:
            await started.serving.stop()
            started.serving.close()

    asyncio.run(main())


def damage(folder: Path) -> None:
    """Change a byte: the size stays, the digest does not."""
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def remake(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def bytes_of(folder: Path) -> int:
    return sum(f["bytes"] for f in json.loads((folder / "manifest.json").read_text())["files"].values())


class TestStart:
    def test_a_folder_of_models(self, repository: Path) -> None:
        async def test(started: Started) -> None:
            assert [served.model.name for served in started.repository.served()] == ["sequence", "text", "vector"]
            assert started.states()["broken", "1"] == "UNAVAILABLE"
            (trouble,) = started.repository.troubles()
            assert trouble.startswith("broken 1: not served: ")
            assert started.value("model_loads_total", model="broken", version="1", outcome="files") == 1
            assert started.value("model_loads_total", model="text", version="1", outcome="loaded") == 1
            assert (started.value("model_memory_bytes", model="text", version="1") or 0) >= bytes_of(
                repository / "text" / "1"
            )

        run(repository, test)

    @pytest.mark.parametrize("part", ["vector", "vector/1"])
    def test_a_path_to_one_model(self, repository: Path, part: str) -> None:
        async def test(started: Started) -> None:
            assert started.states() == {("vector", "1"): "READY"}
            assert await started.ask() == 1

        run(repository / part, test)

    def test_two_models_of_one_name(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)
        (tmp_path / "vector").rename(tmp_path / "a-copy")
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            assert started.states() == {("a-copy", ""): "UNAVAILABLE", ("vector", "1"): "READY"}
            assert "a second model named 'vector'" in started.repository.troubles()[0]

        run(tmp_path, test)

    def test_a_folder_that_has_another_name_than_its_model(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)
        (tmp_path / "vector").rename(tmp_path / "other")

        async def test(started: Started) -> None:
            assert started.states() == {("vector", "1"): "READY"}

        run(tmp_path, test)

    @pytest.mark.parametrize(
        ("make", "says"),
        [
            (lambda path: None, "no model in it"),
            (lambda path: (path / "empty").mkdir(), "empty: not a model"),
            (lambda path: path.rmdir(), "no such folder"),
            (lambda path: damage(write_vector_model(path)), "sha256 is"),
        ],
    )
    def test_nothing_to_serve(self, tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
        folder = tmp_path / "models"
        folder.mkdir()
        make(folder)

        async def main() -> None:
            started = Started(folder)
            with pytest.raises(ArtifactError, match=says):
                await started.serving.start()
            started.serving.close()

        asyncio.run(main())

    def test_the_folder_s_number_is_the_version(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)
        shutil.copytree(tmp_path / "vector" / "1", tmp_path / "vector" / "7")

        async def test(started: Started) -> None:
            assert await started.ask() == 1
            assert "it is of vector version 1; expected vector version 7, as the folder says" in started.reason(
                "vector", 7
            )

        run(tmp_path, test)


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "served"), [("latest", [10]), (1, [10]), (2, [9, 10]), ("all", [2, 9, 10]), (5, [2, 9, 10])]
    )
    def test_versions(self, tmp_path: Path, policy: str | int, served: list[int]) -> None:
        for version in (2, 10, 9):
            write_vector_model(tmp_path, version=version)

        async def test(started: Started) -> None:
            assert [each.model.version for each in started.repository.served()] == served
            assert await started.ask() == 10
            assert [await started.ask(version=version) for version in served] == served
            for other in {2, 9} - set(served):
                there = ", ".join(map(str, served))
                with pytest.raises(ModelNotFoundError, match=f"vector has no version {other}; the server has: {there}"):
                    await started.ask(version=other)
                assert "not among the versions that are kept" in started.reason("vector", other)

        run(tmp_path, test, versions=policy)

    def test_one_that_cannot_be_served_makes_room_for_the_next(self, tmp_path: Path) -> None:
        for version in (1, 2, 3, 4):
            write_vector_model(tmp_path, version=version)
        damage(tmp_path / "vector" / "4")

        async def test(started: Started) -> None:
            assert [each.model.version for each in started.repository.served()] == [2, 3]
            assert started.states()["vector", "4"] == "UNAVAILABLE"
            assert "sha256 is" in started.reason("vector", 4)

        run(tmp_path, test, versions=2)


class TestReload:
    def test_a_new_version_takes_over_and_the_old_one_is_freed(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            old = started.serving.find("vector")
            write_vector_model(tmp_path, version=2)
            with old.in_use():  # a request is on its way
                await started.repository.rescan()
                while started.serving.find("vector") is old:
                    await asyncio.sleep(0.001)
                assert started.states() == {("vector", "1"): "UNLOADING", ("vector", "2"): "READY"}
                await started.serving.predict(old, lambda: X, size=0)  # it is still answered, and by the old version
            await started.settled()
            assert started.states() == {("vector", "1"): "UNAVAILABLE", ("vector", "2"): "READY"}
            assert started.value("model_info", model="vector", version="1", mode="exact", task="classification") is None
            assert started.value("queue_requests", model="vector", version="2") == 0
            with pytest.raises(ModelUnavailableError, match="version 1 has just been unloaded; send the request again"):
                await started.serving.predict(old, lambda: X, size=0)

        _current.set(Call("/test"))
        run(tmp_path, test)

    def test_nothing_keeps_an_unloaded_session_in_memory(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            await started.ask()
            model = weakref.ref(started.serving.find("vector").model)
            write_vector_model(tmp_path, version=2)
            await started.rescanned()
            _current.set(Call("/other"))  # a call that has ended is forgotten, too
            assert model() is None

        run(tmp_path, test)

    def test_a_version_that_is_written_anew_in_its_place(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            before = started.serving.find("vector")
            shutil.rmtree(tmp_path / "vector" / "1")
            write_vector_model(tmp_path, size=Size(seed=1))
            await started.rescanned()
            after = started.serving.find("vector")
            assert after is not before
            assert started.value("model_info", model="vector", version="1", mode="exact", task="classification") == 1
            damage(tmp_path / "vector" / "1")
            await started.rescanned()
            assert started.serving.find("vector") is after
            assert started.states() == {("vector", "1"): "READY"}
            assert started.reason("vector", 1).startswith("a newer copy of it is refused")

        run(tmp_path, test)

    def test_a_file_that_has_not_changed_is_not_loaded_again(self, tmp_path: Path) -> None:
        folder = write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            before = started.serving.find("vector")
            (folder / "notes.txt").write_text("not of the artifact")
            (folder.parent / ".2.tmp-abc").mkdir()
            await started.rescanned()
            assert started.serving.find("vector") is before
            assert started.value("model_loads_total", model="vector", version="1", outcome="loaded") == 1

        run(tmp_path, test)

    @pytest.mark.parametrize(
        ("spoil", "step", "says"),
        [
            (lambda folder: (folder / "model.onnx").unlink(), "files", "no such file, though the manifest lists it"),
            (damage, "files", "sha256 is"),
            (lambda folder: (folder / "manifest.json").write_text("{"), "manifest", "not readable as JSON"),
            (lambda folder: (folder / "manifest.json").unlink(), "manifest", "the artifact is incomplete"),
            (lambda folder: no_graph(folder), "session", "ONNX Runtime refuses it"),
            (lambda folder: not_finite(folder), "probe", "holds nan for random input; expected finite numbers"),
        ],
    )
    def test_a_broken_version_leaves_the_old_one_serving(
        self, tmp_path: Path, spoil: Callable[[Path], Any], step: str, says: str
    ) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            spoil(write_vector_model(tmp_path, version=2))
            await started.rescanned()
            assert await started.ask() == 1
            assert started.states() == {("vector", "1"): "READY", ("vector", "2"): "UNAVAILABLE"}
            assert says in started.reason("vector", 2)
            assert says in started.repository.troubles()[0]
            assert started.value("model_loads_total", model="vector", version="2", outcome=step) == 1
            await started.rescanned()  # not tried again, since nothing has changed
            assert started.value("model_loads_total", model="vector", version="2", outcome=step) == 1
            with pytest.raises(ModelLoadError, match=r"vector version 2 cannot be served: .*; version 1 is served"):
                await started.serving.load("vector")
            shutil.rmtree(tmp_path / "vector" / "2")
            write_vector_model(tmp_path, version=2)
            await started.rescanned()
            assert await started.ask() == 2
            assert started.repository.troubles() == []

        run(tmp_path, test)

    def test_broken_versions_that_come_and_go_leave_no_series(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lazyneuron.server.repository._COUNTERS_STAY", 0.0)
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            for version in range(2, 5):
                folder = write_vector_model(tmp_path, version=version)
                damage(folder)
                await started.rescanned()
                assert started.value("model_loads_total", model="vector", version=str(version), outcome="files") == 1
                shutil.rmtree(folder)
            await started.rescanned()
            await asyncio.sleep(0.01)
            outcomes = started.metrics.loads.collect()[0].samples  # type: ignore[attr-defined]
            assert {sample.labels["version"] for sample in outcomes} == {"1"}

        run(tmp_path, test)

    def test_a_folder_that_does_not_answer_is_known_at_the_end(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)
        answers = threading.Event()

        async def test(started: Started) -> None:
            scan = started.repository._scanner.scan
            started.repository._scanner.scan = lambda: answers.wait(20) and scan()  # type: ignore[method-assign]
            look = asyncio.create_task(started.repository.rescan())
            while not started.repository.loading:
                await asyncio.sleep(0.001)
            look.cancel()  # the thread goes on, and the interpreter would wait for it
            await asyncio.wait({look})
            assert started.repository.loading
            answers.set()

        run(tmp_path, test)

    def test_deleting_the_highest_version_goes_back_to_the_one_below(self, tmp_path: Path) -> None:
        for version in (1, 2):
            write_vector_model(tmp_path, version=version)

        async def test(started: Started) -> None:
            shutil.rmtree(tmp_path / "vector" / "2")
            await started.rescanned()
            assert started.states() == {("vector", "1"): "READY"}
            damage(tmp_path / "vector" / "1")
            write_vector_model(tmp_path, version=3)
            await started.rescanned()
            shutil.rmtree(tmp_path / "vector" / "3")  # what is left cannot be served: the deleted one stays
            await started.rescanned()
            assert await started.ask() == 3

        run(tmp_path, test)

    def test_deleting_a_model(self, repository: Path, tmp_path: Path) -> None:
        shutil.copytree(repository / "vector", tmp_path / "vector")
        shutil.copytree(repository / "text", tmp_path / "text")

        async def test(started: Started) -> None:
            shutil.rmtree(tmp_path / "vector")
            await started.rescanned()
            with pytest.raises(ModelNotFoundError, match="the server has: text"):
                started.serving.find("vector")
            assert started.states() == {("text", "1"): "READY"}
            shutil.rmtree(tmp_path / "text")  # the last one: more likely a mount that is gone than a wish
            await started.rescanned()
            assert started.states() == {("text", "1"): "READY"}
            assert "no model in it any more; what was loaded is served still" in started.repository.troubles()[0]
            assert started.value("repository_reachable") == 0
            shutil.rmtree(tmp_path)
            await started.rescanned()
            assert "no such folder" in started.repository.troubles()[0]
            with pytest.raises(ModelLoadError, match="no such folder"):
                await started.serving.load("text")
            assert started.serving.find("text").model.version == 1
            write_vector_model(tmp_path, version=5)
            await started.rescanned()
            assert started.states() == {("vector", "5"): "READY"}
            assert started.value("repository_reachable") == 1

        run(tmp_path, test)

    def test_a_folder_that_cannot_be_read_is_not_one_that_is_gone(
        self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(repository / "vector", tmp_path / "vector")
        shutil.copytree(repository / "text", tmp_path / "text")

        async def test(started: Started) -> None:
            scanner = started.repository._scanner
            versions = scanner._versions

            def stale(folder: Path, root: Path) -> Any:
                if folder.name == "vector":
                    raise OSError(errno.ESTALE, "Stale file handle")
                return versions(folder, root)

            monkeypatch.setattr(scanner, "_versions", stale)
            await started.rescanned()
            assert await started.ask() == 1
            assert f"{tmp_path}/vector: cannot be read (Stale file handle)" in started.repository.troubles()[0]
            monkeypatch.undo()
            await started.rescanned()
            assert started.repository.troubles() == []
            assert started.value("model_loads_total", model="vector", version="1", outcome="loaded") == 1

        run(tmp_path, test)


def no_graph(folder: Path) -> None:
    """Make the file another one, of which the manifest approves."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.graph.node[0].op_type = "NoSuchOperator"
    put(folder, model)


def not_finite(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    head = next(t for t in model.graph.initializer if t.name == "head")
    array = onnx.numpy_helper.to_array(head).copy()
    array[0] = np.nan
    head.CopyFrom(onnx.numpy_helper.from_array(array, "head"))
    put(folder, model)


def put(folder: Path, model: onnx.ModelProto) -> None:
    path = folder / "model.onnx"
    onnx.save(model, path)
    remake(folder, lambda d: d["files"].update({"model.onnx": digest(path).model_dump()}))


class TestCalls:
    def test_unload_and_load(self, repository: Path) -> None:
        async def test(started: Started) -> None:
            await started.serving.unload("vector")
            assert started.states()["vector", "1"] == "UNAVAILABLE"
            assert started.reason("vector", 1) == "unloaded by a client"
            with pytest.raises(ModelNotFoundError, match=r"no model named 'vector' \(unloaded by a client\)"):
                started.serving.find("vector")
            await started.rescanned()  # the folder does not bring back what a client has unloaded
            assert started.states()["vector", "1"] == "UNAVAILABLE"
            await started.serving.load("vector")
            assert await started.ask() == 1
            await started.serving.unload("vector")
            await started.serving.unload("vector")

        run(repository, test)

    @pytest.mark.parametrize("name", ["nothing", "", "../vector", "vector/1", "x" * 5000])
    def test_a_model_that_is_not_there(self, repository: Path, name: str) -> None:
        async def test(started: Started) -> None:
            with pytest.raises(ModelNotFoundError, match="no model named"):
                await started.serving.load(name)
            with pytest.raises(ModelNotFoundError, match="no model named"):
                await started.serving.unload(name)

        run(repository, test)

    def test_calls_come_one_after_the_other(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            await asyncio.gather(started.serving.unload("vector"), started.serving.load("vector"))
            assert await started.ask() == 1
            write_vector_model(tmp_path, version=2)
            loads = [asyncio.create_task(started.serving.load("vector")) for _ in range(5)]
            await asyncio.gather(*loads)
            assert await started.ask() == 2
            assert started.value("model_loads_total", model="vector", version="2", outcome="loaded") == 1
            assert started.value("model_loads_total", model="vector", version="1", outcome="loaded") == 2

        run(tmp_path, test)

    def test_unload_while_loading(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            write_vector_model(tmp_path, version=2)
            load = asyncio.create_task(started.serving.load("vector"))
            while started.states()["vector", "1"] != "READY" or started.repository._states["vector"].loading is None:
                await asyncio.sleep(0)
            assert started.states() == {("vector", "1"): "READY", ("vector", "2"): "LOADING"}
            await started.serving.unload("vector")
            with pytest.raises(ModelLoadError, match="unloaded by a later call"):
                await load
            assert set(started.states().values()) == {"UNAVAILABLE"}

        run(tmp_path, test)

    def test_load_while_draining(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            old = started.serving.find("vector")
            with old.in_use():
                unload = asyncio.create_task(started.serving.unload("vector"))
                while started.states()["vector", "1"] == "READY":
                    await asyncio.sleep(0)
                load = asyncio.create_task(started.serving.load("vector"))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not unload.done()
                assert not load.done()
            await asyncio.gather(unload, load)
            assert started.serving.find("vector") is not old
            assert await started.ask() == 1

        run(tmp_path, test)

    def test_a_caller_that_leaves_does_not_stop_the_work(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path)

        async def test(started: Started) -> None:
            write_vector_model(tmp_path, version=2)
            load = asyncio.create_task(started.serving.load("vector"))
            while started.repository._states["vector"].loading is None:
                await asyncio.sleep(0)
            load.cancel()
            await started.settled()
            assert await started.ask() == 2

        run(tmp_path, test)

    def test_nothing_is_loaded_once_the_server_stops(self, repository: Path) -> None:
        async def test(started: Started) -> None:
            await started.serving.stop()
            for call in (started.serving.load, started.serving.unload):
                with pytest.raises(ShuttingDownError):
                    await call("vector")

        run(repository, test)


def write_wide(folder: Path, name: str, version: int = 1) -> int:
    """Write a model of 16 MiB, its weights in a file of their own as export leaves them; return its size."""
    target = write_sequence_encoder(folder, name, version, Size(d_model=512, d_ff=2048))
    path = target / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="model.onnx.data")
    files = {file: digest(target / file).model_dump() for file in ("model.onnx", "model.onnx.data")}
    remake(target, lambda document: document.update(files=files))
    return bytes_of(target)


class TestMemory:
    def test_what_does_not_fit_is_refused_before_it_is_loaded(self, tmp_path: Path) -> None:
        write_vector_model(tmp_path, name="a")
        padding = write_vector_model(tmp_path, name="b") / "padding.bin"
        with padding.open("wb") as file:
            file.truncate(64 * 2**20)
        known = digest(padding).model_dump()
        remake(tmp_path / "b" / "1", lambda document: document["files"].update({padding.name: known}))

        async def test(started: Started) -> None:
            assert started.states() == {("a", "1"): "READY", ("b", "1"): "UNAVAILABLE"}
            assert "it takes 64.0 MiB (its files), and of the server's repository.memory_bytes" in started.reason(
                "b", 1
            )
            assert started.value("model_loads_total", model="b", version="1", outcome="memory") == 1

        run(tmp_path, test, memory_bytes=64 * 2**20)

    def test_two_versions_that_do_not_fit_together(self, tmp_path: Path) -> None:
        size = write_wide(tmp_path, "wide")

        async def test(started: Started) -> None:
            write_wide(tmp_path, "wide", 2)
            await started.rescanned()
            assert started.states() == {("wide", "1"): "READY", ("wide", "2"): "UNAVAILABLE"}
            assert "MiB are free" in started.reason("wide", 2)
            await started.serving.unload("wide")
            await started.serving.load("wide")
            assert started.states()["wide", "2"] == "READY"

        run(tmp_path, test, memory_bytes=int(size * 1.8))

    @pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
    def test_draining_first_makes_room_and_goes_back_where_that_was_in_vain(self, tmp_path: Path, broken: bool) -> None:
        size = write_wide(tmp_path, "wide")

        async def test(started: Started) -> None:
            old = started.serving.find("wide")
            write_wide(tmp_path, "wide", 2)
            if broken:
                no_graph(tmp_path / "wide" / "2")
            with old.in_use():
                await started.repository.rescan()
                while started.states()["wide", "1"] == "READY":
                    await asyncio.sleep(0)
                with pytest.raises(ModelUnavailableError, match="wide version 2 is being loaded; try again"):
                    started.serving.find("wide")
            del old
            await started.settled()
            await started.rescanned()
            assert started.serving.find("wide").model.version == (1 if broken else 2)
            loads = [
                started.value("model_loads_total", model="wide", version=version, outcome=outcome)
                for version, outcome in (("1", "loaded"), ("2", "memory"), ("2", "loaded"), ("2", "session"))
            ]
            assert loads == ([2, None, None, 1] if broken else [1, None, 1, None])

        run(tmp_path, test, memory_bytes=int(size * 1.8), drain_first=True)

    def test_no_version_is_drained_for_a_lower_one(self, tmp_path: Path) -> None:
        size = write_wide(tmp_path, "wide")

        async def test(started: Started) -> None:
            write_wide(tmp_path, "wide", 2)
            await started.rescanned()
            assert started.states() == {("wide", "1"): "UNAVAILABLE", ("wide", "2"): "READY"}
            await started.rescanned()
            assert started.value("model_loads_total", model="wide", version="2", outcome="loaded") == 1

        run(tmp_path, test, memory_bytes=int(size * 1.8), drain_first=True, versions="all")

    def test_what_was_refused_is_loaded_once_it_fits(self, tmp_path: Path) -> None:
        size = write_wide(tmp_path, "a")
        write_wide(tmp_path, "b")

        async def test(started: Started) -> None:
            assert started.states() == {("a", "1"): "READY", ("b", "1"): "UNAVAILABLE"}
            shutil.rmtree(tmp_path / "a")
            await started.rescanned()
            assert started.states() == {("b", "1"): "READY"}

        run(tmp_path, test, memory_bytes=int(size * 1.8))


class TestTrust:
    def test_only_signed_models_are_taken(self, tmp_path: Path) -> None:
        models = tmp_path / "models"
        for name in ("signed", "unsigned", "strange", "changed"):
            write_vector_model(models, name=name)
        public, other = new_key(tmp_path / "ours"), new_key(tmp_path / "theirs")
        for name, key in (("signed", "ours"), ("strange", "theirs"), ("changed", "ours")):
            sign(models / name / "1", tmp_path / key)
        remake(models / "changed" / "1", lambda document: document.update(task="another"))

        async def test(started: Started) -> None:
            assert [served.model.name for served in started.repository.served()] == ["signed"]
            assert "takes signed models alone" in started.reason("unsigned", 1)
            assert "not a signature of manifest.json by a trusted key" in started.reason("strange", 1)
            assert "not a signature of manifest.json by a trusted key" in started.reason("changed", 1)
            assert started.value("model_loads_total", model="unsigned", version="1", outcome="signature") == 1
            sign(models / "unsigned" / "1", tmp_path / "ours")
            await started.rescanned()
            assert started.states()["unsigned", "1"] == "READY"

        run(models, test, trusted_keys=(str(public),))

        async def both(started: Started) -> None:
            assert started.states()["strange", "1"] == "READY"

        run(models, both, trusted_keys=(str(public), str(other)))

    def test_a_key_that_cannot_be_used_stops_the_server(self, repository: Path, tmp_path: Path) -> None:
        new_key(tmp_path / "key")
        for file, says in ((tmp_path / "none", "not readable"), (tmp_path / "key", "a private key")):
            with pytest.raises(ConfigurationError, match=says):
                Started(repository, trusted_keys=(str(file),))

    def test_links_out_of_the_repository(self, tmp_path: Path) -> None:
        outside, models = tmp_path / "outside", tmp_path / "models"
        write_vector_model(models, name="fine")
        write_vector_model(outside, name="model")
        write_vector_model(outside, name="version", version=2)
        (models / "model").symlink_to(outside / "model")
        (models / "version").mkdir()
        (models / "version" / "2").symlink_to(outside / "version" / "2")
        file = write_vector_model(models, name="file") / "model.onnx"
        file.rename(outside / "model.onnx")
        file.symlink_to(outside / "model.onnx")
        manifest = write_vector_model(models, name="manifest") / "manifest.json"
        manifest.rename(outside / "manifest.json")
        manifest.symlink_to(outside / "manifest.json")
        inner = write_vector_model(models, name="inner").parent
        inner.rename(models / ".store")
        inner.symlink_to(models / ".store")

        async def test(started: Started) -> None:
            assert [served.model.name for served in started.repository.served()] == ["fine", "inner"]
            for name in ("model", "version", "file", "manifest"):
                (reason,) = (e.reason for e in started.repository.index() if e.name == name)
                assert "outside" in reason, name

        run(models, test)


class TestCopies:
    def test_what_is_written_over_a_served_version_harms_nothing(self, tmp_path: Path) -> None:
        """Without copies the weights' file is mapped: cutting it short would end the process with SIGBUS."""
        write_wide(tmp_path / "models", "wide")
        (tmp_path / "copies").mkdir()
        x = {"x": np.ones((1, 4, 512), np.float32)}

        async def test(started: Started) -> None:
            model = started.serving.find("wide").model
            before = model.predict(x).outputs["y"]
            assert list((tmp_path / "copies").iterdir()) == []
            with (tmp_path / "models" / "wide" / "1" / "model.onnx.data").open("wb") as file:
                file.write(b"cut short")
            assert np.array_equal(model.predict(x).outputs["y"], before)
            await started.rescanned()
            assert started.serving.find("wide").model is model
            assert started.reason("wide", 1).startswith("a newer copy of it is refused: ")
            assert list((tmp_path / "copies").iterdir()) == []

        run(tmp_path / "models", test, copies=str(tmp_path / "copies"))

    def test_a_folder_for_copies_that_is_not_there(self, repository: Path, tmp_path: Path) -> None:
        async def main() -> None:
            started = Started(repository, copies=str(tmp_path / "none"))
            with pytest.raises(ArtifactError, match=r"No such file or directory: '.*none"):
                await started.serving.start()
            started.serving.close()

        asyncio.run(main())
