"""Arbitrary bytes as requests, coverage-guided, without a socket: each becomes a checked `Request` or an `InputError`.

The handlers of both services run as they are; in the place of `Serving` stands what decodes, checks and does not run.

    python -m tests.server.fuzz_decoder CORPUS_FOLDER -max_total_time=60     # libFuzzer's options; see -help=1

Real requests are put into the corpus. A finding is written to the current folder, and is run again by giving its file
in the corpus' place.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["lazyneuron.server", "lazyneuron.engine"]):
    from google.protobuf.message import DecodeError

    from lazyneuron.engine.errors import InputError, ModelNotFoundError
    from lazyneuron.engine.model import Model
    from lazyneuron.engine.requests import Request
    from lazyneuron.protocol import open_inference_pb2 as oip
    from lazyneuron.protocol import prediction_pb2 as pb
    from lazyneuron.server.config import ServerConfig
    from lazyneuron.server.metrics import Metrics
    from lazyneuron.server.services.open_inference import OpenInferenceService
    from lazyneuron.server.services.predict import PredictionService
    from lazyneuron.server.streams import Streams
    from lazyneuron.server.tensors import encode

import numpy as np

from tests.support.artifacts import (
    write_image_classifier,
    write_sequence_encoder,
    write_text_classifier,
    write_vector_model,
)

_LIMITS = ("-max_len=8192", "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=20")
"""A message of 8 KiB that takes 512 MiB at once, or 20 seconds, is a finding."""


class Reached(Exception):  # noqa: N818  it is none
    """The request was decoded and checked."""


class Served:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.scheduler = None


class Decoding:
    """`Serving` up to the queue."""

    def __init__(self, models: dict[str, Model]) -> None:
        self.served = {name: Served(model) for name, model in models.items()}
        self.ready = True

    def find(self, name: str, version: int | None = None) -> Served:
        if name not in self.served or version not in {None, 1}:
            raise ModelNotFoundError("none")
        return self.served[name]

    async def predict(self, served: Served, decode: Callable[[], Any], **options: Any) -> None:
        budget = options.get("budget")
        assert isinstance(served.model.request(decode(), 1.0 if budget is None else budget), Request)
        raise Reached


class Context:
    """What handlers read from a call."""

    def time_remaining(self) -> None:
        return None

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()


def models(folder: Path) -> dict[str, Model]:
    for write in (write_vector_model, write_sequence_encoder, write_text_classifier, write_image_classifier):
        write(folder)
    return {path.name: Model.load(path, threads=1) for path in folder.iterdir()}


def target(loaded: dict[str, Model]) -> Callable[[bytes], None]:
    """Return what is called with each input; its first byte chooses the service."""
    decoding: Any = Decoding(loaded)
    metrics, streams = Metrics(), Streams(1)
    predict = PredictionService(decoding, metrics, streams)
    infer = OpenInferenceService(decoding, ServerConfig(), metrics, streams)
    context: Any = Context()

    def one(data: bytes) -> None:
        parse, handle = (
            (pb.PredictRequest.FromString, predict.Predict)
            if data[:1] < b"\x80"
            else (oip.ModelInferRequest.FromString, infer.ModelInfer)
        )
        try:
            message = parse(data[1:])
        except DecodeError:  # the interceptor's InputError
            return
        try:
            handle(message, context).send(None)
        except (Reached, InputError, ModelNotFoundError):
            return
        raise AssertionError("neither a request nor an error")

    return one


def seeds() -> list[bytes]:
    """Return real requests, of all kinds of inputs and both services."""
    from io import BytesIO

    from PIL import Image

    rng = np.random.default_rng(0)
    stream = BytesIO()
    Image.fromarray(rng.integers(0, 256, (9, 7, 3)).astype(np.uint8)).save(stream, "PNG")
    tensors = {
        "vector": {"x": rng.normal(size=(2, 16)).astype(np.float32)},
        "sequence": {"x": rng.normal(size=(1, 2, 16)).astype(np.float32), "attention_mask": np.ones((1, 2), np.int64)},
        "text": {"input_ids": np.array([[2, 3, 4]])},
    }
    found: list[Any] = [
        pb.PredictRequest(model_name="text", text="lazy neurons sleep", budget=0.5, top=3),
        pb.PredictRequest(model_name="image", image=stream.getvalue(), omit_outputs=True),
    ]
    for name, inputs in tensors.items():
        ours, theirs = pb.PredictRequest(model_name=name, model_version=1), oip.ModelInferRequest(model_name=name)
        typed = oip.ModelInferRequest(model_name=name, model_version="1", id="7")
        typed.parameters["budget"].string_param = "0.5"
        for key, value in inputs.items():
            datatype, shape, data = encode(value)
            ours.inputs.tensors.add(name=key, datatype=datatype, shape=shape, data=data)
            theirs.inputs.add(name=key, datatype=datatype, shape=shape)
            theirs.raw_input_contents.append(data)
            tensor = typed.inputs.add(name=key, datatype=datatype, shape=shape)
            contents = tensor.contents.fp32_contents if datatype == "FP32" else tensor.contents.int64_contents
            contents.extend(value.ravel().tolist())
        theirs.outputs.add(name="y" if name == "sequence" else "logits")
        found += [ours, theirs, typed]
    for name, content in (("text", b"few neurons work"), ("image", stream.getvalue())):
        request = oip.ModelInferRequest(model_name=name)
        request.inputs.add(name=name, datatype="BYTES", shape=[1])
        request.raw_input_contents.append(len(content).to_bytes(4, "little") + content)
        found.append(request)
    first = {pb.PredictRequest: b"\x00", oip.ModelInferRequest: b"\x80"}
    return [first[type(request)] + request.SerializeToString() for request in found]


def main() -> None:
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if corpus is not None and not corpus.is_file():
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        run = target(models(Path(folder)))
        for seed in seeds():  # a real request is one: otherwise the fuzzing would look at nothing
            _reaches(run, seed)
        atheris.Setup([*sys.argv, *_LIMITS], run)
        atheris.Fuzz()


def _reaches(run: Callable[[bytes], None], seed: bytes) -> None:
    reached = []
    original = Decoding.predict

    async def predict(self: Decoding, *arguments: Any, **options: Any) -> None:
        try:
            await original(self, *arguments, **options)
        except Reached:
            reached.append(True)
            raise

    Decoding.predict = predict  # type: ignore[method-assign]
    try:
        run(seed)
    finally:
        Decoding.predict = original  # type: ignore[method-assign]
    if not reached:
        raise SystemExit(f"a real request is refused: {seed[:80]!r}")


if __name__ == "__main__":
    main()
