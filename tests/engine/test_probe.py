"""The self-check: what passes it, and what does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lazyneuron.engine.artifact import MANIFEST_FILE, InputSpec, digest, read_manifest
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import PROBE_FILE, made_inputs, self_check, write_probe
from tests.support.artifacts import write_sequence_encoder, write_text_classifier, write_vector_model


def add_probe(folder: Path, inputs: dict[str, np.ndarray]) -> Path:
    """Give an artifact a probe, as an export does."""
    model = Model.load(folder, threads=1)
    probe = write_probe(folder, model, inputs)
    files = {**model.manifest.files, probe.file: digest(folder / probe.file)}
    manifest = model.manifest.model_copy(update={"files": files, "probe": probe})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return add_probe(write_vector_model(tmp_path), {"x": np.ones((2, 16), np.float32)})


def change_head(folder: Path, factor: float) -> None:
    model = onnx.load(folder / "model.onnx")
    head = next(t for t in model.graph.initializer if t.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) * np.float32(factor), "head"))
    onnx.save(model, folder / "model.onnx")


def check(folder: Path) -> bool:
    return self_check(Model.load(folder, threads=1, verify=False), folder).probed


def test_the_model_that_it_was_made_by_passes(vector: Path) -> None:
    manifest = read_manifest(vector)
    assert manifest.probe is not None
    assert manifest.probe.outputs[0].shape == (2, 3)
    assert check(vector)


def test_padding_is_probed_too(tmp_path: Path) -> None:
    mask = np.array([[1] * 9, [1] * 4 + [0] * 5])
    x = np.random.default_rng(0).normal(size=(2, 9, 16)).astype(np.float32)
    assert check(add_probe(write_sequence_encoder(tmp_path), {"x": x, "attention_mask": mask}))


@pytest.mark.parametrize("factor", [1.01, -1.0, 0.0, np.nan, np.inf])
def test_other_weights_do_not(vector: Path, factor: float) -> None:
    change_head(vector, factor)
    with pytest.raises(ArtifactError, match=r"probe\.npz: output 'logits' is off by .* expected at most 0\.001"):
        check(vector)


def test_a_difference_in_rounding_passes(vector: Path) -> None:
    change_head(vector, 1 + 1e-5)
    assert check(vector)


def test_large_outputs_are_kept_in_part(tmp_path: Path) -> None:
    folder = add_probe(write_sequence_encoder(tmp_path), {"x": np.ones((8, 1024, 16), np.float32)})
    probe = read_manifest(folder).probe
    assert probe is not None
    assert [(o.shape, o.every) for o in probe.outputs] == [((8, 1024, 16), 2)]
    with np.load(folder / PROBE_FILE, allow_pickle=False) as file:
        assert file["output:y"].shape == (65_536,)
    assert check(folder)


def rewrite(folder: Path, **arrays: np.ndarray) -> None:
    with np.load(folder / PROBE_FILE, allow_pickle=False) as file:
        kept = {name: file[name] for name in file.files}
    with (folder / PROBE_FILE).open("wb") as out:
        np.savez(out, **{**kept, **{name.replace("__", ":"): a for name, a in arrays.items()}})


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"input__x": np.ones((2, 15), np.float32)}, "the model does not run on its probe: x: got shape"),
        ({"input__z": np.ones(1, np.float32)}, "the model does not run on its probe: 'z'"),
        ({"output__logits": np.ones(5, np.float32)}, "output 'logits' is float32"),
        ({"output__logits": np.ones(6, np.float64)}, "expected float64"),
        ({"input__x": np.array([{}], dtype=object)}, "not a readable .npz file"),
    ],
)
def test_a_probe_that_does_not_fit(vector: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    rewrite(vector, **arrays)
    with pytest.raises(ArtifactError, match=says) as caught:
        check(vector)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04N."])
def test_a_probe_that_is_none(vector: Path, content: bytes) -> None:
    (vector / PROBE_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"probe\.npz: not a readable \.npz file"):
        check(vector)


class TestWithout:
    def test_outputs_that_are_numbers_pass(self, tmp_path: Path) -> None:
        for write in (write_vector_model, write_text_classifier, write_sequence_encoder):
            folder = write(tmp_path)
            found = self_check(Model.load(folder, threads=1), folder)
            assert not found.probed
            assert found.warning is None

    def test_outputs_that_are_none_do_not(self, tmp_path: Path) -> None:
        folder = write_vector_model(tmp_path)
        change_head(folder, np.inf)
        with pytest.raises(ArtifactError, match=r"output 'logits' holds -?(inf|nan) for random input"):
            check(folder)

    def test_a_model_that_takes_no_made_input_is_only_warned_of(self, tmp_path: Path) -> None:
        folder = write_vector_model(tmp_path)
        model = onnx.load(folder / "model.onnx")
        for node in model.graph.node:
            if node.op_type == "MatMul" and node.input[1] == "head":
                node.input[1] = "row_budget"  # [batch], which never fits
        onnx.save(model, folder / "model.onnx")
        found = self_check(Model.load(folder, threads=1, verify=False), folder)
        assert found.warning is not None
        assert "it does not run on random input: vector: ONNX Runtime failed" in found.warning


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("role", ["data", "tokens", "mask", "token_types"])
def test_made_inputs_are_within_the_bounds(dtype: str, role: str) -> None:
    spec = InputSpec(name="x", dtype=dtype, shape=("batch", "n", 3), role=role, minimum=0, maximum=5)
    array = made_inputs([spec], {"batch": 2, "n": 40})["x"]
    assert array.shape == (2, 40, 3)
    assert array.dtype == np.dtype(dtype)
    assert array.min() >= 0
    assert array.max() <= 5
