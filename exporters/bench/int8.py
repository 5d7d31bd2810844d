"""ONNX Runtime's dynamic int8 of a file: what a user would pick instead of skipping."""

from pathlib import Path

from onnx import TensorProto

from lazyneuron.exporters.quiet import quiet

__all__ = ["quantize"]


def quantize(dense: Path, target: Path, *, external_data: bool = False) -> None:
    """Write a model with its MatMuls in ONNX Runtime's dynamic int8: weights once, rows as they come.

    Parameters
    ----------
    external_data
        Whether the weights get a file of their own.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The type of what shape inference does not know: the outputs of our operators.
    options = {"DefaultTensorType": TensorProto.FLOAT}
    with quiet():  # it recommends a preprocessing that is for static quantisation
        quantize_dynamic(
            dense,
            target,
            weight_type=QuantType.QInt8,
            use_external_data_format=external_data,
            extra_options=options,
        )
