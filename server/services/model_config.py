"""A model's configuration in Triton's words: `ModelConfig`, which perf_analyzer asks for before anything else."""

from collections.abc import Sequence

from lazyneuron.engine.artifact import FORMAT_VERSION, MODEL_FILE, Axes, InputSpec, Manifest, OutputSpec
from lazyneuron.protocol import model_config_pb2 as pb
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.tensors import datatype_of

__all__ = ["PLATFORM", "model_config", "wire_shape"]

PLATFORM = "onnxruntime_onnx"
"""Triton's name for an ONNX model, which its clients know."""
_BACKEND = "onnxruntime"
_MICROSECONDS = 1e6
_OPTIONAL = ("mask", "token_types")


def model_config(manifest: Manifest, versions: Sequence[int], config: ServerConfig) -> pb.ModelConfig:
    """Return a model's configuration.

    Where requests can be joined, `max_batch_size` is above 0 and no `dims` has the batch axis, as Triton's convention
    is; otherwise it is 0 and `dims` are whole.

    Parameters
    ----------
    manifest
        Of the version that was asked for.
    versions
        All that are served under its name.
    config
        The server's.
    """
    batched = manifest.batchable
    message = pb.ModelConfig(
        name=manifest.name,
        platform=PLATFORM,
        backend=_BACKEND,
        default_model_filename=MODEL_FILE,
        max_batch_size=config.batching.max_requests if batched else 0,
        version_policy=pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=versions)),
        input=[_input(spec, batched=batched) for spec in manifest.inputs],
        output=[_output(spec, batched=batched) for spec in manifest.outputs],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )
    message.instance_group.add(
        name=f"{manifest.name}_0", kind=pb.ModelInstanceGroup.KIND_CPU, count=config.batching.concurrency
    )
    if batched:
        message.dynamic_batching.CopyFrom(_dynamic_batching(config))
    for name, value in _parameters(manifest).items():
        message.parameters[name].string_value = value
    return message


def wire_shape(axes: Axes) -> list[int]:
    """Return a shape with -1 for each axis of any length."""
    return [axis if isinstance(axis, int) else -1 for axis in axes]


def _input(spec: InputSpec, *, batched: bool) -> pb.ModelInput:
    return pb.ModelInput(
        name=spec.name,
        data_type=_data_type(spec),
        dims=wire_shape(spec.shape)[batched:],
        optional=spec.role in _OPTIONAL,
        allow_ragged_batch=False,  # the server pads by itself; a client need not know
    )


def _output(spec: OutputSpec, *, batched: bool) -> pb.ModelOutput:
    return pb.ModelOutput(name=spec.name, data_type=_data_type(spec), dims=wire_shape(spec.shape)[batched:])


def _data_type(spec: InputSpec | OutputSpec) -> pb.DataType.ValueType:
    return pb.DataType.Value(f"TYPE_{datatype_of(spec.dtype)}")


def _dynamic_batching(config: ServerConfig) -> pb.ModelDynamicBatching:
    return pb.ModelDynamicBatching(
        max_queue_delay_microseconds=round(config.batching.window_seconds * _MICROSECONDS),
        default_queue_policy=pb.ModelQueuePolicy(
            timeout_action=pb.ModelQueuePolicy.REJECT,
            allow_timeout_override=True,
            max_queue_size=config.queue.max_requests,
        ),
    )


def _parameters(manifest: Manifest) -> dict[str, str]:
    parameters = {
        "lazyneuron_format_version": str(FORMAT_VERSION),
        "task": manifest.task,
        "mode": manifest.mode,
        "quantize": manifest.quantize,
        "source_digest": manifest.source.digest,
    }
    takes = [kind for kind, spec in (("text", manifest.tokenizer), ("image", manifest.image)) if spec is not None]
    return parameters | ({"bytes_input": takes[0]} if takes else {})
