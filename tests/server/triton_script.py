"""What tritonclient sees of a server; run in an environment of its own: `triton_script.py HOST:PORT`."""

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
metadata = client.get_model_metadata("sequence", as_json=True)
x = np.random.default_rng(7).normal(size=(2, 5, 16)).astype(np.float32)
mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int64)
inputs = [triton.InferInput("x", x.shape, "FP32"), triton.InferInput("attention_mask", mask.shape, "INT64")]
inputs[0].set_data_from_numpy(x)
inputs[1].set_data_from_numpy(mask)
result = client.infer("sequence", inputs, outputs=[triton.InferRequestedOutput("y")], request_id="one", timeout=None)
text = triton.InferInput("text", [1], "BYTES")
text.set_data_from_numpy(np.array(["lazy neurons save energy"], np.object_))
try:
    client.infer("nothing", inputs)
    refused = None
except triton.InferenceServerException as error:
    refused = [error.status(), error.message()]
done: queue.Queue[object] = queue.Queue()
for _ in range(20):
    client.async_infer("sequence", inputs, callback=lambda result, error: done.put(error))
errors = [done.get(timeout=30) for _ in range(20)]
json.dump(
    {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("sequence"),
        "absent_ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(as_json=True),
        "metadata": metadata,
        "index": client.get_model_repository_index(as_json=True),
        "y": result.as_numpy("y").tolist(),
        "id": result.get_response().id,
        "logits": client.infer("text", [text], parameters={"budget": "0.5"}).as_numpy("logits").tolist(),
        "refused": refused,
        "asynchronous_errors": [str(error) for error in errors if error is not None],
    },
    sys.stdout,
)
