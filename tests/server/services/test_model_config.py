"""A manifest in Triton's words."""

from lazyneuron.engine.artifact import InputSpec, OutputSpec
from lazyneuron.protocol import model_config_pb2 as pb
from lazyneuron.server.config import BatchingConfig, ServerConfig
from lazyneuron.server.services.model_config import model_config
from tests.support.artifacts import manifest_of

CONFIG = ServerConfig(batching=BatchingConfig(max_requests=12, concurrency=3, window_seconds=0.004))
MASK = InputSpec(name="mask", dtype="int64", shape=("batch", "sequence"), role="mask", pad=0)
X = InputSpec(name="x", dtype="float16", shape=("batch", "sequence", 8), pad=0)
Y = OutputSpec(name="y", dtype="bool", shape=("batch", "sequence"))


def test_a_model_that_batches() -> None:
    config = model_config(manifest_of(inputs=(X, MASK), outputs=(Y,), task="none"), [1, 4], CONFIG)
    assert config.max_batch_size == 12
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
        ("x", pb.TYPE_FP16, [-1, 8], False),
        ("mask", pb.TYPE_INT64, [-1], True),
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [("y", pb.TYPE_BOOL, [-1])]
    assert list(config.version_policy.specific.versions) == [1, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 4000
    assert [(g.kind, g.count) for g in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 3)]
    assert (config.platform, config.backend, config.default_model_filename) == (
        "onnxruntime_onnx", "onnxruntime", "model.onnx",
    )  # fmt: skip
    assert not config.model_transaction_policy.decoupled


def test_a_model_that_does_not() -> None:
    """An output without the batch axis: dims are whole, and nothing says that requests go together."""
    whole = OutputSpec(name="y", dtype="float32", shape=("sequence", 8))
    config = model_config(manifest_of(inputs=(X, MASK), outputs=(whole,), task="none"), [1], CONFIG)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, -1, 8]
    assert config.WhichOneof("scheduling_choice") is None


def test_every_dtype_of_a_manifest_has_a_type() -> None:
    dtypes = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
              "float64")  # fmt: skip
    inputs = tuple(InputSpec(name=dtype, dtype=dtype, shape=("batch", 1)) for dtype in dtypes)
    config = model_config(manifest_of(inputs=inputs, outputs=(Y,), task="none"), [1], CONFIG)
    assert pb.TYPE_INVALID not in {i.data_type for i in config.input}
    assert len({i.data_type for i in config.input}) == len(dtypes)
