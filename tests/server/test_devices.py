"""`--device`: what a machine without a GPU says to it; and a server on GPUs made of the CPU's sessions and numbers."""

import asyncio
import json
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from lazyneuron import Client
from lazyneuron.engine.artifact import MODEL_FILE
from lazyneuron.engine.devices import cuda, found, host_memory
from lazyneuron.engine.devices.binding import GraphSession, Tensors
from lazyneuron.engine.devices.choice import CPU, Choice, Device
from lazyneuron.engine.devices.cuda import GpuSettings, provider_options
from lazyneuron.engine.errors import ArtifactError, ConfigurationError, DeviceMemoryError
from lazyneuron.engine.model import Model
from lazyneuron.engine.session import CUDA_PROVIDER, open_session
from lazyneuron.server.app import App
from lazyneuron.server.calls import Call, _current
from lazyneuron.server.config import BatchingConfig, RepositoryConfig, ServerConfig, load_settings
from lazyneuron.server.config_print import to_toml
from lazyneuron.server.devices import Devices, chosen_devices, measured_bounds, probing_requests
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.serving import Serving
from tests.support.server import serving

no_gpu = pytest.mark.skipif(chosen_devices(ServerConfig()).on_gpu, reason="this machine has a GPU that can be used")
GPUS = (Device("cuda", 0, "GPU 0"), Device("cuda", 1, "GPU 1"))
MIB = 2**20


# What is asked for


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("gpu", "'gpu' is no device; expected auto, cpu, or GPUs as cuda:0 or cuda:0,cuda:1"),
        ("cuda:0,cuda:0", "cuda:0 is named twice; one session is opened on each device"),
    ],
)
def test_what_is_no_device_is_told_with_its_source(tmp_path: Path, value: str, words: str) -> None:
    file = tmp_path / "serve.toml"
    file.write_text(f'device = "{value}"\n')
    for source, load in {
        "--device": lambda: load_settings(None, {"device": value}, environment={}),
        "LAZYNEURON_DEVICE": lambda: load_settings(None, {}, environment={"LAZYNEURON_DEVICE": value}),
        str(file): lambda: load_settings(file, {}, environment={}),
    }.items():
        with pytest.raises(ConfigurationError) as refused:
            load()
        assert str(refused.value).startswith(f"{source}: device: ")
        assert words in str(refused.value)


def test_what_is_asked_for_is_printed() -> None:
    settings = load_settings(None, {"device": "cuda:0,cuda:1"}, environment={"LAZYNEURON_GPU__GRAPHS": "true"})
    told = {line.split("#")[0].strip(): line.split("# ")[1] for line in to_toml(settings).splitlines() if "#" in line}
    assert told['device = "cuda:0,cuda:1"'] == "--device"
    assert told["graphs = true"] == "LAZYNEURON_GPU__GRAPHS"


def serve(repository: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lazyneuron", "serve", str(repository), "--grpc-port", "0", "--http-port", "0"]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120, check=False)


@no_gpu
def test_a_gpu_that_is_not_there_is_one_line(repository: Path) -> None:
    done = serve(repository, "--device", "cuda:0")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "--device cuda:0: cuda:0 cannot be used: " in line
    if CUDA_PROVIDER not in ort.get_available_providers():
        assert f"this ONNX Runtime {ort.__version__} is built without its CUDA provider; " in line


def test_two_devices_named_alike_are_one_line(repository: Path) -> None:
    done = serve(repository, "--device", "cuda:1,cuda:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--device: device: cuda:1 is named twice" in done.stderr


@no_gpu
def test_auto_serves_on_the_cpu_and_says_why_once(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log") as server, Client(server.grpc) as client:
        assert client.predict("text", "lazy neurons").outputs["logits"].shape == (1, 3)
        on = {dict(labels)["device"] for (name, labels) in server.metrics() if name == "lazyneuron_model_device_info"}
        assert on == {"cpu"}
        assert server.total("lazyneuron_model_device_info", model="text", version="1", device="cpu") == 1
        assert not any(name.startswith("lazyneuron_gpu") for name, _ in server.metrics())
        assert server.terminate() == 0
    log = server.log.read_text()
    assert log.count("device auto: serving on the CPU: ") == 1


def test_cpu_looks_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> None:
        raise AssertionError

    monkeypatch.setattr(found, "look", look)
    devices = chosen_devices(ServerConfig(device="cpu"))
    assert (devices.choice.devices, devices.choice.why, devices.held()) == ((CPU,), "", {})


@pytest.mark.skipif(CUDA_PROVIDER in ort.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_a_runtime_that_lies_over_the_one_with_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "docs/serving.md, Devices" in found.look().runtime_lacks
    monkeypatch.setattr(found.metadata, "version", lambda name: {"onnxruntime-gpu": "1.31.1"}[name])
    assert "onnxruntime-gpu 1.31.1 is installed, but onnxruntime lies over it" in found.look().runtime_lacks


def test_the_provider_is_tried_on_a_small_graph() -> None:
    session = ort.InferenceSession(found._IDENTITY, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([3], np.float32)})[0] == [3]


@no_gpu
def test_what_the_provider_lacks_is_told_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = found._provider_lacks(0)
    assert f"ONNX Runtime {ort.__version__}" in words
    assert "\n" not in words
    assert capfd.readouterr().out == ""


@no_gpu
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")  # ONNX Runtime's own word of it
def test_no_session_opens_on_the_cpu_in_place_of_a_gpu(repository: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"model.onnx: ONNX Runtime (refuses it on|opened it on the CPU, .*) cuda:0"
    ):
        open_session(repository / "vector" / "1" / MODEL_FILE, device=GPUS[0])


def test_a_check_that_cannot_run_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(device: Device) -> list[str]:
        raise OSError(f"no kernels for device {device}")

    stand_in = types.ModuleType("lazyneuron.engine.gpu.selfcheck")
    stand_in.short = short  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr("lazyneuron.engine.gpu.selfcheck", stand_in, raising=False)
    assert found._check(3) == ["OSError: no kernels for device cuda:3"]


def test_provider_options() -> None:
    options = provider_options(GpuSettings(memory_share=0.5), free=1000)
    assert options == {
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": "500",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    assert (
        provider_options(GpuSettings(tf32=True, graphs=True), 1000).items()
        >= {
            "use_tf32": "1",
            "enable_cuda_graph": "1",
        }.items()
    )


# On GPUs made of this CPU's sessions


class Gpus:
    """Two devices of 1,000 MiB each, on which a model takes 10 MiB and so many bytes for each token of a batch."""

    def __init__(self, bytes_per_token: int) -> None:
        self.bytes_per_token = bytes_per_token
        self.held = [0, 0]
        self.most = [0, 0]
        self.runs = [0, 0]

    def memory(self, index: int) -> tuple[int, int]:
        return 1000 * MIB - self.held[index] - self.most[index], 1000 * MIB

    def open(
        self, path: Path, manifest: Any, device: Device, settings: GpuSettings, *_: object, **others: object
    ) -> tuple["_Session", GpuSettings]:  # fmt: skip
        self.held[device.index] += 10 * MIB
        session = GraphSession(open_session(path, threads=1), Tensors.of(manifest))
        return _Session(self, device.index, session, int(900 * MIB)), settings


class _Session:
    def __init__(self, gpus: Gpus, index: int, session: GraphSession, limit: int) -> None:
        self.gpus, self.index, self.session, self.limit = gpus, index, session, limit

    def run(self, fetches: Any, feed: Any) -> Any:
        tokens = int(np.prod(feed["attention_mask"].shape)) if "attention_mask" in feed else len(feed["x"])
        wanted = tokens * self.gpus.bytes_per_token
        if wanted + 10 * MIB > self.limit:
            raise RuntimeError(f"Failed to allocate memory for requested buffer of size {wanted}")
        self.gpus.most[self.index] = max(self.gpus.most[self.index], wanted)
        self.gpus.runs[self.index] += 1
        time.sleep(0.005)  # as long as it takes for another batch to be there
        return self.session.run(fetches, feed)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Gpus]:
    def made(bytes_per_token: int) -> Gpus:
        gpus = Gpus(bytes_per_token)
        monkeypatch.setattr(cuda, "open_on_gpu", gpus.open)
        monkeypatch.setattr(host_memory, "cuda_driver", lambda: None)
        return gpus

    return made


def on_gpus(gpus: Gpus, *, graphs: bool = False) -> Devices:
    return Devices(Choice(GPUS), GpuSettings(graphs=graphs), 8192, gpus.memory)


def test_a_batch_s_bound_is_what_the_memory_holds(repository: Path, gpus: Callable[[int], Gpus]) -> None:
    for bytes_per_token, most in ((1000, 8192), (MIB // 4, None)):
        made = gpus(bytes_per_token)
        devices = on_gpus(made)
        free = devices.held()
        folder = repository / "text" / "1"
        model = Model.open(folder, Model.load(folder).manifest, devices=GPUS)
        bounds = measured_bounds(model.apart(), devices, free)
        assert set(bounds) == {"cuda:0", "cuda:1"}
        for bound in bounds.values():
            assert bound.model_bytes == 10 * MIB
            assert bound.bytes_per_token == pytest.approx(bytes_per_token, rel=0.3)
            assert bound.max_tokens == most or 1000 < bound.max_tokens <= 890 * 4


def test_a_model_that_does_not_fit_names_the_device(repository: Path, gpus: Callable[[int], Gpus]) -> None:
    devices = on_gpus(gpus(50 * MIB))
    folder = repository / "text" / "1"
    free = devices.held()
    model = Model.open(folder, Model.load(folder).manifest, devices=GPUS)
    with pytest.raises(ArtifactError, match="text on cuda:0: a batch of 64 tokens does not fit into the GPU's memory"):
        measured_bounds(model.apart(), devices, free)


def test_probing_batches_are_as_large_as_they_say(repository: Path) -> None:
    text = Model.load(repository / "text", threads=1)
    shapes = {request.inputs["input_ids"].shape for request in probing_requests(text, 1024)}
    assert shapes == {(1, 1024), (8, 128)}
    vector = Model.load(repository / "vector", threads=1)
    assert {request.tokens for request in probing_requests(vector, 1024)} == {1024}


@pytest.mark.parametrize("graphs", [False, True])
def test_a_server_on_two_gpus(repository: Path, gpus: Callable[[int], Gpus], graphs: bool) -> None:
    made = gpus(MIB // 4)
    metrics = Metrics()
    config = ServerConfig(threads=1, batching=BatchingConfig(max_requests=4), repository=RepositoryConfig(watch="off"))
    x = np.random.default_rng(0).normal(size=(3, 5, 16)).astype(np.float32)
    expected = Model.load(repository / "sequence", threads=1).predict({"x": x}).outputs["y"]

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"lazyneuron_{name}", labels)

    async def main() -> None:
        server = Serving(repository, config, metrics, on_gpus(made, graphs=graphs))
        await server.start()
        try:
            _current.set(Call("/test"))
            served = server.find("sequence")
            before = list(made.runs)
            calls = [server.predict(served, lambda: {"x": x}, size=0) for _ in range(40)]
            for answer in await asyncio.gather(*calls):
                np.testing.assert_allclose(answer.prediction.outputs["y"], expected, rtol=1e-5, atol=1e-6)
            assert all(after > first for after, first in zip(made.runs, before, strict=True)), "a device ran nothing"
            for device in ("cuda:0", "cuda:1"):
                assert value("model_device_info", model="sequence", version="1", device=device) == 1
                assert value("gpu_memory_bytes", device=device, kind="total") == 1000 * MIB
                assert value("gpu_memory_bytes", device=device, kind="used") == made.held[0] + made.most[0]
                assert (value("gpu_memory_bytes", device=device, kind="model") or 0) > 10 * MIB
            assert value("concurrency", model="sequence", version="1") == 2
            assert value("model_device_info", model="sequence", version="1", device="cpu") is None
            bound = value("batch_limit_tokens", model="sequence", version="1")
            assert bound is not None
            assert 64 <= bound < 8192
            await server.unload("sequence")
            assert value("model_device_info", model="sequence", version="1", device="cuda:0") is None
        finally:
            await server.stop()
            server.close()

    asyncio.run(main())


def test_what_no_gpu_holds_is_refused_in_words_over_both_protocols(
    repository: Path, gpus: Callable[[int], Gpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    """About 220 tokens fit; an example of 500 runs alone, and once more."""
    monkeypatch.setattr("lazyneuron.server.app.chosen_devices", lambda _: on_gpus(gpus(4 * MIB)))
    config = ServerConfig(grpc_port=0, http_port=0, threads=1, repository=RepositoryConfig(watch="off"))

    def ask(app: App) -> None:
        with Client(app.grpc_address) as client:
            assert client.predict("text", {"input_ids": np.full((2, 50), 2)}).outputs["logits"].shape == (2, 3)
            with pytest.raises(
                DeviceMemoryError, match=r"text: a batch of 500 tokens does not fit .* send shorter inputs"
            ):
                client.predict("text", {"input_ids": np.full((1, 500), 2)})
        body = {"inputs": [{"name": "input_ids", "shape": [1, 500], "datatype": "INT64", "data": [2] * 500}]}
        url = f"{app.http_url}v2/models/text/infer"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request, timeout=20):
            pass
        assert refused.value.code == 429
        assert "does not fit into the memory of cuda:0, cuda:1" in json.loads(refused.value.read())["error"]
        with urllib.request.urlopen(f"{app.http_url}metrics", timeout=20) as answer:
            text = answer.read().decode()
        assert 'requests_refused_total{model="text",reason="device_memory",version="1"} 2.0' in text
        assert 'lazyneuron_out_of_memory_batches_total{model="text",version="1"} 2.0' in text
        assert 'lazyneuron_gpu_memory_bytes{device="cuda:1",kind="total"}' in text

    async def main() -> None:
        app = App(repository, config)
        await app.start()
        try:
            await asyncio.to_thread(ask, app)
        finally:
            await app.stop(10)

    asyncio.run(main())
