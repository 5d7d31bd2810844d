"""nvidia-pytriton, which is Triton's Python backend, with ONNX Runtime in the middle.

python pytriton_server.py MODEL.onnx NAME GRPC_PORT HTTP_PORT THREADS MAX_BATCH WORKSPACE
"""

import signal
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def main(model: str, name: str, port: int, http: int, threads: int, most: int, workspace: str) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options)
    names = [output.name for output in session.get_outputs()]

    @batch
    def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, inputs), strict=True))

    def tensor(value: onnxruntime.NodeArg) -> Tensor:
        shape = tuple(axis if isinstance(axis, int) else -1 for axis in value.shape[1:])
        return Tensor(name=value.name, dtype=_DTYPES[value.type], shape=shape)

    ports = {"grpc_port": port, "http_port": http}
    config = TritonConfig(**ports, grpc_address="127.0.0.1", http_address="127.0.0.1", allow_metrics=False)
    with Triton(config=config, workspace=Path(workspace)) as triton:
        triton.bind(
            model_name=name,
            infer_func=infer,
            inputs=[tensor(value) for value in session.get_inputs()],
            outputs=[tensor(value) for value in session.get_outputs()],
            # No delay: a request is not made to wait for others, they gather while the backend is busy.
            config=ModelConfig(max_batch_size=most, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or it leaves Triton's shared memory behind
    file, name, *numbers, workspace = sys.argv[1:]
    main(file, name, *map(int, numbers), workspace)
