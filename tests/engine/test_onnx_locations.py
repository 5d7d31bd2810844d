"""Which files an ONNX model would have read: none escapes, wherever in the graph it is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lazyneuron.engine.artifact import digest, read_manifest, verify_files
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.onnx_locations import FIELDS, check_listed, check_within, external_locations
from tests.support.artifacts import write_vector_model


def outside(location: str = "../secret") -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside(), indices=numpy_helper.from_array(np.zeros(1, np.int64)), dims=[1])


def constant(**attributes: object) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["y"], **attributes)


def model(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.ModelProto:
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [y], list(initializers)))


def with_sparse() -> onnx.ModelProto:
    made = model()
    made.graph.sparse_initializer.append(sparse())
    return made


def in_subgraph() -> onnx.ModelProto:
    inner = model(initializers=(outside(),)).graph
    middle = model(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)).graph
    return model(helper.make_node("Loop", ["n", "c"], ["y"], body=middle))


def in_function() -> onnx.ModelProto:
    made = model()
    made.functions.append(helper.make_function("own", "F", [], ["y"], [constant(value=outside())], []))
    return made


def in_default() -> onnx.ModelProto:
    made = in_function()
    made.functions[0].attribute_proto.append(helper.make_attribute("a", outside()))
    del made.functions[0].node[:]
    return made


def in_training() -> onnx.ModelProto:
    made = model()
    made.training_info.add().algorithm.CopyFrom(model(initializers=(outside(),)).graph)
    return made


PLACES: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: model(initializers=(outside(),)),
    "sparse initializer": with_sparse,
    "constant": lambda: model(constant(value=outside())),
    "sparse constant": lambda: model(constant(sparse_value=sparse())),
    "list of tensors": lambda: model(helper.make_node("N", [], ["y"], domain="own", many=[outside()])),
    "subgraph": in_subgraph,
    "list of graphs": lambda: model(
        helper.make_node("N", [], ["y"], domain="own", many=[model(initializers=(outside(),)).graph])
    ),
    "function": in_function,
    "function's default": in_default,
    "training": in_training,
}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_found(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(PLACES[place]().SerializeToString())
    assert external_locations(path) == {"../secret"}
    with pytest.raises(ArtifactError, match=r"its external data is in '../secret'; expected a path within"):
        check_within(path)


def test_no_message_that_leads_to_a_tensor_is_left_out() -> None:
    """What `onnx.proto` itself says of its fields: a release with a new one is noticed here."""
    known = {message.name: message for message in onnx.onnx_ml_pb2.DESCRIPTOR.message_types_by_name.values()}
    leading = {"StringStringEntryProto"}
    while True:
        more = {
            name
            for name, message in known.items()
            for field in message.fields
            if field.message_type is not None
            and field.message_type.name in leading
            and (field.message_type.name != "StringStringEntryProto" or field.name == "external_data")
        }
        if more <= leading:
            break
        leading |= more
    expected = {
        name: {
            field.number: field.message_type.name
            for field in known[name].fields
            if field.message_type is not None
            and field.message_type.name in leading
            and (field.message_type.name != "StringStringEntryProto" or field.name == "external_data")
        }
        for name in leading - {"StringStringEntryProto"}
    }
    assert {name: dict(fields) for name, fields in FIELDS.items()} == expected


@pytest.mark.parametrize(
    "location", ["../x", "/etc/passwd", "a/../../x", "", "*/_ORT_MEM_ADDR_/*/../x", "a\\..\\..\\x"]
)
def test_paths_that_lead_out(tmp_path: Path, location: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(initializers=(outside(location),)).SerializeToString())
    with pytest.raises(ArtifactError, match="its external data is in"):
        check_within(path)
    with pytest.raises(ArtifactError, match="its external data is in"):
        check_listed(path, ["m.onnx", "w.bin"])


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "other.bin", "m.onnx", "sub/w.bin"])
def test_an_artifact_s_graph_reads_no_file_that_is_not_listed(tmp_path: Path, location: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(initializers=(outside(location),)).SerializeToString())
    with pytest.raises(ArtifactError, match=r"expected one of \['w.bin'\], which the manifest lists"):
        check_listed(path, ["m.onnx", "w.bin"])


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"1234")
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    path = folder / "m.onnx"
    path.write_bytes(model(initializers=(outside("w.bin"),)).SerializeToString())
    with pytest.raises(ArtifactError, match=r"w\.bin: leads to .*secret, outside"):
        check_within(path)


@pytest.mark.parametrize(
    "content",
    [
        b"not a model",
        b"",
        b"\x3a\xff\xff\xff\xff\x0f",  # a graph of 4 GB
        b"\x3b\x3c",  # a group, which parsers skip
        b"\xba\x80\x80\x80\x70\x00",  # field 7 by a tag of more than 32 bits, which some parsers cut
        b"\x80\x80\x80\x80\x80\x80",
        b"\x02\x00",
    ],
)
def test_what_parsers_may_read_in_more_than_one_way_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a readable ONNX file"):
        external_locations(path)


def test_an_entry_with_two_values_is_refused(tmp_path: Path) -> None:
    made = model(initializers=(outside("w.bin"),)).SerializeToString()
    entry = onnx.StringStringEntryProto(key="location", value="w.bin").SerializeToString()
    more = entry + onnx.StringStringEntryProto(value="../x").SerializeToString()
    tensor = outside("w.bin")
    tensor.ClearField("external_data")
    doubled = tensor.SerializeToString() + b"\x6a" + bytes([len(more)]) + more
    parsed = TensorProto.FromString(doubled)
    assert parsed.external_data[0].value == "../x", "protobuf takes the last"
    graph = b"\x2a" + bytes([len(doubled)]) + doubled
    path = tmp_path / "m.onnx"
    path.write_bytes(made + b"\x3a" + bytes([len(graph)]) + graph)
    with pytest.raises(ArtifactError, match="a key or a value twice"):
        external_locations(path)


def test_messages_that_are_nested_without_end(tmp_path: Path) -> None:
    def field(tag: int, content: bytes) -> bytes:
        assert len(content) < 1 << 14
        return bytes([tag, len(content) & 0x7F | 0x80, len(content) >> 7]) + content

    graph = b""
    for _ in range(60):
        graph = field(0x0A, field(0x2A, field(0x32, graph)))  # graph.node.attribute.g
    path = tmp_path / "m.onnx"
    path.write_bytes(field(0x3A, graph))
    with pytest.raises(ArtifactError, match="nested more than 100 deep"):
        external_locations(path)


@given(st.binary(max_size=200))
def test_no_bytes_break_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.onnx"
    path.write_bytes(content)
    try:
        found = external_locations(path)
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert isinstance(found, set)


def test_an_artifact_whose_graph_reads_elsewhere(tmp_path: Path) -> None:
    folder = write_vector_model(tmp_path)
    path = folder / "model.onnx"
    made = onnx.load(path)
    made.graph.initializer.append(outside("/etc/hostname"))
    onnx.save(made, path)
    manifest = read_manifest(folder)
    manifest = manifest.model_copy(update={"files": {"model.onnx": digest(path)}})
    with pytest.raises(ArtifactError, match=r"'/etc/hostname'; expected none, as the manifest says"):
        verify_files(folder, manifest)
