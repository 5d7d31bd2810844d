"""Ray Serve behind its gRPC proxy, with ONNX Runtime in the middle; it speaks the Open Inference Protocol, too.

python ray_app.py MODEL.onnx NAME GRPC_PORT HTTP_PORT THREADS MAX_BATCH
"""

import signal
import sys
import threading

import numpy as np
import onnxruntime
import ray
from ray import serve
from ray.serve._private import api
from ray.serve.config import HTTPOptions, gRPCOptions

from lazyneuron.protocol import open_inference_pb2 as pb

_DTYPES = {"FP32": np.float32, "INT64": np.int64}


def main(model: str, name: str, port: int, http: int, threads: int, most: int) -> None:
    @serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=4 * most)
    class Served:
        def __init__(self) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = onnxruntime.InferenceSession(model, options)
            self.names = [output.name for output in self.session.get_outputs()]

        async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802
            pairs = zip(request.inputs, request.raw_input_contents, strict=True)
            feed = {t.name: np.frombuffer(raw, _DTYPES[t.datatype]).reshape(t.shape) for t, raw in pairs}
            response = pb.ModelInferResponse(model_name=name, id=request.id)
            for output, value in (await self.together(feed)).items():
                response.outputs.add(name=output, datatype="FP32", shape=value.shape)
                response.raw_output_contents.append(value.tobytes())
            return response

        # No wait: a request is not made to wait for others, they gather while the replica is busy.
        @serve.batch(max_batch_size=most, batch_wait_timeout_s=0.0)
        async def together(self, feeds: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
            joined = {key: np.concatenate([feed[key] for feed in feeds]) for key in feeds[0]}
            values = self.session.run(self.names, joined)
            ends = np.cumsum([len(next(iter(feed.values()))) for feed in feeds])[:-1]
            parts = [np.split(value, ends) for value in values]
            return [dict(zip(self.names, row, strict=True)) for row in zip(*parts, strict=True)]

    api.HTTP_PROXY_TIMEOUT = 300  # to start may take longer than its minute, on few cores
    ray.init(num_cpus=threads, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    functions = ["lazyneuron.protocol.open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"]
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=functions),
    )
    serve.run(Served.bind(), name="default", route_prefix="/")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    file, name, *numbers = sys.argv[1:]
    main(file, name, *map(int, numbers))
