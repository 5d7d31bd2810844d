"""An MLServer runtime for ONNX files: what its own runtimes do, with ONNX Runtime in the middle."""

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxRuntime(MLModel):
    """`parameters.uri` is the ONNX file, `parameters.extra.threads` ONNX Runtime's threads."""

    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.settings.parameters.extra["threads"]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        names = [output.name for output in self._session.get_outputs()]
        values = self._session.run(names, feed)
        outputs = [NumpyCodec.encode_output(name, value) for name, value in zip(names, values, strict=True)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
