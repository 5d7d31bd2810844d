"""What tritonclient sees of a server; run in an environment of its own: `triton_script.py GRPC HTTP DESCRIPTORS`.

Prints one JSON document with a section for each of its four clients, and how the messages of its own differ from ours.
"""

import asyncio
import json
import queue
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

GRPC, HTTP, DESCRIPTORS = sys.argv[1:]
X = np.random.default_rng(7).normal(size=(2, 5, 16)).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)


def tensor(module, name, array, datatype, **how):
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, **how)
    return made


def sequence(module):
    return [tensor(module, "x", X, "FP32"), tensor(module, "attention_mask", MASK, "INT64")]


def text(module, value="lazy neurons save energy", **how):
    return [tensor(module, "text", np.array([value], np.object_), "BYTES", **how)]


def refusal(call):
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), error.message()]
    return None


def whole(module, client, **as_json):
    """What the synchronous clients, over gRPC and over HTTP, have in common."""
    wrong = [tensor(module, "x", X.astype(np.float16), "FP16"), tensor(module, "attention_mask", MASK, "INT64")]
    before = client.get_inference_statistics("sequence", **as_json)
    wanted = [module.InferRequestedOutput("y")]
    y = client.infer("sequence", sequence(module), outputs=wanted, request_id="one", parameters={"budget": 1.0})
    top = client.infer("text", text(module), outputs=[module.InferRequestedOutput("logits", class_count=2)])
    client.load_model("vector")
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("sequence", "1"),
        "absent_ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(**as_json),
        "metadata": client.get_model_metadata("sequence", **as_json),
        "config": client.get_model_config("sequence", **as_json),
        "index": client.get_model_repository_index(**as_json),
        "before": before,
        "y": y.as_numpy("y").tolist(),
        "after": client.get_inference_statistics("sequence", **as_json),
        "all_statistics": client.get_inference_statistics(**as_json),
        "logits": client.infer("text", text(module), parameters={"budget": 0.5}).as_numpy("logits").tolist(),
        "classes": [value.decode() for value in top.as_numpy("logits").ravel()],
        "trace": client.get_trace_settings(**as_json),
        "log": client.get_log_settings(**as_json),
        "refused": {
            "model": refusal(lambda: client.infer("nothing", sequence(module))),
            "datatype": refusal(lambda: client.infer("sequence", wrong)),
            "trace": refusal(lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})),
            "log": refusal(lambda: client.update_log_settings({"log_verbose_level": 1})),
            "system": refusal(client.get_system_shared_memory_status),
            "cuda": refusal(lambda: client.unregister_cuda_shared_memory("r")),
            "load": refusal(lambda: client.load_model("nothing")),
        },
    }


def over_grpc():
    client = triton.InferenceServerClient(GRPC)
    seen = whole(triton, client, as_json=True)
    result = client.infer("sequence", sequence(triton), request_id="one", client_timeout=30)
    seen["id"] = result.get_response().id
    done = queue.Queue()
    for _ in range(20):
        client.async_infer("sequence", sequence(triton), callback=lambda result, error: done.put(error))
    seen["asynchronous_errors"] = [str(e) for e in (done.get(timeout=30) for _ in range(20)) if e is not None]
    seen["stream"] = stream(client)
    client.close()
    return seen


def stream(client):
    """Thirty requests, every third of a model that is not there."""
    done = queue.Queue()
    client.start_stream(callback=lambda result, error: done.put((result, error)))
    for index in range(30):
        model = "nothing" if index % 3 == 2 else "sequence"
        final = {"enable_empty_final_response": True} if index % 2 else {}
        client.async_stream_infer(model, sequence(triton), request_id=str(index), **final)
    answers = [done.get(timeout=30) for _ in range(30)]
    client.stop_stream()
    return [
        ["error", error.message()]
        if error is not None
        else [result.get_response().id, result.get_response().parameters["triton_final_response"].bool_param]
        for result, error in answers
    ]


def over_http():
    client = triton_http.InferenceServerClient(HTTP, concurrency=4)
    seen = whole(triton_http, client)
    plain = [triton_http.InferRequestedOutput("y", binary_data=False)]
    inputs = [
        tensor(triton_http, "x", X, "FP32", binary_data=False),
        tensor(triton_http, "attention_mask", MASK, "INT64", binary_data=False),
    ]
    seen["json"] = client.infer("sequence", inputs, outputs=plain).as_numpy("y").tolist()
    seen["compressed"] = {
        how: client.infer(
            "sequence",
            sequence(triton_http),
            request_compression_algorithm=how,
            response_compression_algorithm=how,
        )
        .as_numpy("y")
        .tolist()
        for how in ("gzip", "deflate")
    }
    many = [client.async_infer("sequence", sequence(triton_http), request_id=str(i)) for i in range(20)]
    seen["ids"] = [one.get_result(timeout=30).get_response()["id"] for one in many]
    late = client.infer("sequence", sequence(triton_http), timeout=30_000_000)
    seen["with_timeout"] = late.as_numpy("y").tolist()
    client.close()
    return seen


async def asynchronous():
    async with triton_aio.InferenceServerClient(GRPC) as client:
        many = await asyncio.gather(*(client.infer("sequence", sequence(triton)) for _ in range(20)))

        async def requests():
            for index in range(10):
                yield {"model_name": "sequence", "inputs": sequence(triton), "request_id": str(index)}

        streamed = [
            result.get_response().id if error is None else str(error)
            async for result, error in client.stream_infer(requests())
        ]
        grpc_seen = {"y": many[-1].as_numpy("y").tolist(), "stream": streamed}
    async with triton_http_aio.InferenceServerClient(HTTP) as client:
        many = await asyncio.gather(*(client.infer("sequence", sequence(triton_http_aio)) for _ in range(20)))
        http_seen = {
            "y": many[-1].as_numpy("y").tolist(),
            "ready": await client.is_model_ready("text"),
            "config": (await client.get_model_config("text"))["max_batch_size"],
        }
    return grpc_seen, http_seen


def differences():
    """Fields, values and methods that tritonclient's messages have and ours have not, or of another kind."""
    ours = descriptor_pb2.FileDescriptorSet.FromString(Path(DESCRIPTORS).read_bytes())
    theirs = descriptor_pb2.FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):
        module.DESCRIPTOR.CopyToProto(theirs.file.add())
    return sorted(str(fact) for fact in facts(theirs) ^ facts(ours))


def facts(files):
    found = set()

    def add(message, prefix):
        name = f"{prefix}.{message.name}"
        found.update(
            (name, f.name, f.number, f.type, f.label, f.type_name, f.HasField("oneof_index")) for f in message.field
        )
        for enum in message.enum_type:
            found.update((name, enum.name, value.name, value.number) for value in enum.value)
        for nested in message.nested_type:
            add(nested, name)

    for file in files.file:
        for message in file.message_type:
            add(message, file.package)
        for enum in file.enum_type:
            found.update((enum.name, value.name, value.number) for value in enum.value)
        for service in file.service:
            found.update(
                (service.name, m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
                for m in service.method
            )
    return found


grpc_aio, http_aio = asyncio.run(asynchronous())
json.dump(
    {
        "grpc": over_grpc(),
        "http": over_http(),
        "grpc_aio": grpc_aio,
        "http_aio": http_aio,
        "differences": differences(),
    },
    sys.stdout,
)
