"""Serves one engine for `encoder.py` and `gpu/run.py`, a process of its own: no engine's threads meet another's.

Run as `python encoder_engines.py ENGINE FOLDER THREADS`; ENGINE is a key of `ENGINES`. It answers lines
of JSON: `{"batch", "length", "repeats", "output"}` is answered with `{"seconds": [...]}`, one for each run, and the
last run's output is written to the .npy file `output`, if there is a name. Imports are inside, since the peers live
in an environment of their own.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

Array = np.ndarray
Run = Callable[[Array], object]
"""Takes token ids int64 [batch, length], and gives what `np.asarray` can read as float32 [batch, length, D]."""

ARTIFACTS = ("exact", "certified", "certified-int8", "predictor-int8")
_SEED = 11


def token_ids(batch: int, length: int, vocabulary: int = 4096) -> Array:
    """Return the ids that every engine is given for a shape."""
    return np.random.default_rng([_SEED, batch, length]).integers(3, vocabulary, (batch, length))


def _onnxruntime(file: str, folder: Path, threads: int, *, spinning: bool = True) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return _fed(onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"]))


def _lazyneuron(artifact: str, folder: Path, threads: int, *, spinning: bool = False) -> Run:
    from lazyneuron.engine.session import open_session

    return _fed(open_session(folder / artifact / "model.onnx", threads=threads, spinning=spinning))


def _cuda(file: str, folder: Path, threads: int, *, tf32: bool = False) -> Run:
    from lazyneuron.engine.devices.choice import Device
    from lazyneuron.engine.session import open_session

    options = {"use_tf32": str(int(tf32))}
    gpu = Device("cuda")
    return _fed(open_session(folder / file, threads=threads, spinning=True, device=gpu, provider_options=options))


def _pytorch_cuda(folder: Path, threads: int, *, compiled: bool) -> Run:
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.T5EncoderModel.from_pretrained(folder / "checkpoint", dtype=torch.float16).eval().to("cuda")
    forward = torch.compile(model, dynamic=False) if compiled else model

    def run(ids: Array) -> Array:
        with torch.inference_mode():
            given = torch.from_numpy(ids).to("cuda")
            return forward(input_ids=given, attention_mask=torch.ones_like(given))[0].float().cpu().numpy()

    return run


def _fed(session: object) -> Run:
    names = ["last_hidden_state"]
    return lambda ids: session.run(names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


def _pytorch(kind: str, folder: Path, threads: int, *, compiled: bool) -> Run:
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.T5EncoderModel.from_pretrained(folder / "checkpoint", dtype=getattr(torch, kind)).eval()
    forward = torch.compile(model, dynamic=False) if compiled else model

    def run(ids: Array) -> Array:
        with torch.inference_mode():
            given = torch.from_numpy(ids)
            return forward(input_ids=given, attention_mask=torch.ones_like(given))[0].float().numpy()

    return run


def _openvino(kind: str, folder: Path, threads: int) -> Run:
    import openvino

    model = openvino.Core().read_model(folder / "dense.onnx")
    if kind == "compressed":
        model = _nncf().compress_weights(model, mode=_nncf().CompressWeightsMode.INT8_SYM)
    if kind == "quantized":
        ids = [token_ids(8, 128 + i) for i in range(4)]
        data = _nncf().Dataset([{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids])
        model = _nncf().quantize(model, data, model_type=_nncf().ModelType.TRANSFORMER, subset_size=len(ids))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if kind == "bf16" else "f32",
    }
    if kind == "compressed":
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 128
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(ids: Array) -> Array:
        request.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return request.get_output_tensor(0).data

    return run


def _nncf() -> object:
    import logging

    logging.disable(logging.WARNING)
    import nncf

    return nncf


def _ctranslate2(kind: str, folder: Path, threads: int) -> Run:
    import ctranslate2

    encoder = ctranslate2.Encoder(str(folder / "ctranslate2"), device="cpu", compute_type=kind, intra_threads=threads)

    def run(ids: Array) -> object:
        lengths = np.full(len(ids), ids.shape[1], np.int32)
        given = ctranslate2.StorageView.from_array(ids.astype(np.int32))
        return encoder.forward_batch(given, ctranslate2.StorageView.from_array(lengths)).last_hidden_state

    return run


ENGINES: dict[str, Callable[[Path, int], Run]] = {
    "ort-float32": partial(_onnxruntime, "dense.onnx"),
    "ort-float32-blocking": partial(_onnxruntime, "dense.onnx", spinning=False),
    "ort-int8": partial(_onnxruntime, "int8.onnx"),
    "ort-int8-per-channel": partial(_onnxruntime, "int8-per-channel.onnx"),
    "ort-int8-per-channel-blocking": partial(_onnxruntime, "int8-per-channel.onnx", spinning=False),
    "pytorch-float32": partial(_pytorch, "float32", compiled=False),
    "pytorch-float32-compiled": partial(_pytorch, "float32", compiled=True),
    "pytorch-bfloat16": partial(_pytorch, "bfloat16", compiled=False),
    "pytorch-bfloat16-compiled": partial(_pytorch, "bfloat16", compiled=True),
    "openvino-float32": partial(_openvino, "float32"),
    "openvino-bfloat16": partial(_openvino, "bf16"),
    "openvino-int8-compressed": partial(_openvino, "compressed"),
    "openvino-int8-quantized": partial(_openvino, "quantized"),
    "ctranslate2-float32": partial(_ctranslate2, "float32"),
    "ctranslate2-int8": partial(_ctranslate2, "int8"),
    **{f"lazyneuron-{name}": partial(_lazyneuron, name) for name in ARTIFACTS},
    **{f"lazyneuron-{name}-spinning": partial(_lazyneuron, name, spinning=True) for name in ARTIFACTS},
    "reference-predictor": partial(_onnxruntime, "predictable.onnx"),
    "cuda-ort-float32": partial(_cuda, "dense.onnx"),
    "cuda-ort-tf32": partial(_cuda, "dense.onnx", tf32=True),
    "cuda-ort-float16": partial(_cuda, "float16.onnx"),
    "cuda-pytorch-float16": partial(_pytorch_cuda, compiled=False),
    "cuda-pytorch-float16-compiled": partial(_pytorch_cuda, compiled=True),
    **{f"cuda-lazyneuron-{name}": partial(_cuda, f"{name}/model.onnx") for name in ("exact", "certified")},
    "cuda-lazyneuron-certified-tf32": partial(_cuda, "certified/model.onnx", tf32=True),
}


def _serve(run: Run) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        ids = token_ids(asked["batch"], asked["length"])
        seconds, result = [], None
        for _ in range(asked["repeats"]):
            start = time.perf_counter()
            result = run(ids)
            seconds.append(time.perf_counter() - start)
        if asked["output"]:
            np.save(asked["output"], np.asarray(result))
        _answer({"seconds": seconds})


def _answer(document: dict[str, object]) -> None:
    sys.__stdout__.write(json.dumps(document) + "\n")
    sys.__stdout__.flush()


def main() -> None:
    engine, folder, threads = sys.argv[1:]
    sys.stdout = sys.stderr  # the answers' pipe is for answers alone
    try:
        run = ENGINES[engine](Path(folder), int(threads))
    except Exception as error:
        _answer({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise
    _answer({"ready": engine})
    _serve(run)


if __name__ == "__main__":
    main()
