import json
import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image as Picture

from lazyneuron.engine.artifact import ImageSpec, InputSpec, Source
from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.batches import batch_size, batches
from lazyneuron.exporters.examples import random_examples, read_examples
from lazyneuron.exporters.sources import DenseModel, Tokenizer

IDS = InputSpec(name="ids", dtype="int64", shape=("batch", "sequence"), role="tokens", pad=0, minimum=0, maximum=9)
MASK = InputSpec(name="mask", dtype="int64", shape=("batch", "sequence"), role="mask", pad=0)
IMAGE = InputSpec(name="image", dtype="float32", shape=("batch", 2, 3))
WORDS = {"[UNK]": 0, "lazy": 1, "neuron": 2}


def dense(*inputs: InputSpec, tokenizer: Tokenizer | None = None, **more) -> DenseModel:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    source = Source(kind="onnx_file", name="m", digest="sha256:0")
    return DenseModel(model, source, inputs, (), "feature-extraction", tokenizer=tokenizer, **more)


def word_tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer as Words
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Words(WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    return Tokenizer(made.to_str(), max_length=3)


def lines(folder: Path, *documents: object) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(d if isinstance(d, str) else json.dumps(d) for d in documents) + "\n")
    return path


def test_lines_of_inputs(tmp_path):
    path = lines(tmp_path, {"inputs": {"ids": [1, 2, 3]}, "label": "x"}, "", {"inputs": {"ids": [[4]], "mask": [1]}})
    examples = read_examples(path, dense(IDS, MASK))
    assert (examples.count, examples.name) == (2, "data.jsonl")
    first, second = examples.read()
    assert (first["ids"].tolist(), first["mask"].tolist()) == ([1, 2, 3], [1, 1, 1])
    assert (second["ids"].tolist(), second["ids"].dtype) == ([4], np.int64)
    assert len(list(examples.read())) == 2  # it can be read again


def test_lines_of_text_are_cut_to_what_the_model_takes(tmp_path):
    path = lines(tmp_path, {"text": "lazy neuron"}, {"text": "lazy lazy lazy lazy lazy"})
    examples = list(read_examples(path, dense(IDS, MASK, tokenizer=word_tokenizer())).read())
    assert [e["ids"].tolist() for e in examples] == [[1, 2], [1, 1, 1]]


def test_lines_of_images(tmp_path):
    (tmp_path / "images").mkdir()
    made = Picture.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    made.save(tmp_path / "images" / "one.png")
    pixels = InputSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 2, 3))
    model = dense(pixels, image=ImageSpec(input="pixel_values", rescale=0.5))
    (example,) = read_examples(lines(tmp_path, {"image": "images/one.png", "label": 1}), model).read()
    np.testing.assert_array_equal(example["pixel_values"], np.asarray(made, np.float32).transpose(2, 0, 1) / 2)


@pytest.mark.parametrize(
    ("known", "name", "says"),
    [
        (False, "one.png", 'line 1: got "image", and it is not known what is done to one; give "inputs": pixel_values'),
        (True, "one.png", "line 1: image: got .*one.png .No such file or directory.; expected an image file"),
        (True, "data.jsonl", "line 1: image: got 24 bytes; expected an image file: JPEG"),
    ],
)
def test_images_that_cannot_be_used(tmp_path, known, name, says):
    pixels = InputSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 2, 3))
    model = dense(pixels, image=ImageSpec(input="pixel_values") if known else None)
    with pytest.raises(CalibrationError, match=says):
        list(read_examples(lines(tmp_path, {"image": name}), model).read())


def test_npz(tmp_path):
    np.savez(tmp_path / "d.npz", image=np.ones((4, 2, 3)), label=np.arange(4))
    examples = read_examples(tmp_path / "d.npz", dense(IMAGE))
    assert examples.count == 4
    assert all(e["image"].shape == (2, 3) and e["image"].dtype == np.float32 for e in examples.read())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", r"data\.jsonl: line 2: not JSON"),
        ([1], r"line 2: got list; expected \{\"text\""),
        ({"txt": "a"}, r"line 2: got keys \['txt'\]"),
        ({"text": "a"}, r"line 2: got \"text\", and the checkpoint has no tokenizer; give \"inputs\": ids, mask"),
        ({"inputs": {"mask": [1]}}, r"line 2: input ids is missing"),
        ({"inputs": {"ids": [1], "more": [1]}}, r"line 2: no input 'more'; expected \['ids', 'mask'\]"),
        ({"inputs": {"ids": [1, 2], "mask": [1]}}, r"line 2: input mask: got shape \[1\]"),
        ({"inputs": {"ids": [[1], [2]]}}, r"line 2: input ids: got shape \[2, 1\]; expected \['sequence'\]"),
        ({"inputs": {"ids": [0.5]}}, r"line 2: input ids: got float64; expected int64"),
        ({"inputs": {"ids": []}}, r"line 2: input ids: got "),
        ({"inputs": {"ids": [10]}}, r"line 2: input ids: got 10 to 10; expected 0 to 9"),
        ({"inputs": {"ids": [[1, 2], [3]]}}, r"line 2: input ids: "),
        ({"inputs": {"ids": [1] * 6}}, r"line 2: sequence is 6; expected at most 5"),
    ],
)
def test_bad_lines_are_named(tmp_path, document, message):
    path = lines(tmp_path, {"inputs": {"ids": [1]}}, document)
    examples = read_examples(path, dense(IDS, MASK, max_lengths={"sequence": 5}))
    with pytest.raises(CalibrationError, match=message) as caught:
        list(examples.read())
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(CalibrationError, match="no such file"):
        read_examples(tmp_path / "absent.jsonl", dense(IDS))
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(CalibrationError, match="it holds no examples"):
        read_examples(tmp_path / "empty.jsonl", dense(IDS))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="not readable as text"):
        read_examples(tmp_path / "binary.jsonl", dense(IDS))
    (tmp_path / "bad.npz").write_bytes(b"PK")
    with pytest.raises(CalibrationError, match=r"not a readable \.npz file"):
        read_examples(tmp_path / "bad.npz", dense(IMAGE))
    np.savez(tmp_path / "uneven.npz", ids=np.ones((2, 3), int), mask=np.ones((3, 3), int))
    with pytest.raises(CalibrationError, match="differ in how many examples"):
        read_examples(tmp_path / "uneven.npz", dense(IDS, MASK))
    np.savez(tmp_path / "none.npz", ids=np.ones((0, 3), int))
    with pytest.raises(CalibrationError, match="it holds no examples"):
        read_examples(tmp_path / "none.npz", dense(IDS))


def test_random_examples_are_the_same_every_time():
    examples = random_examples(dense(IDS, MASK, IMAGE), count=200)
    drawn = list(examples.read())
    assert examples.name is None
    assert {len(e["ids"]) for e in drawn} == set(range(8, 17))
    assert set(np.concatenate([e["ids"] for e in drawn])) == set(range(10))
    for one, other in zip(drawn, examples.read(), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


class TestBatches:
    def ragged(self, *lengths: int) -> list[dict[str, np.ndarray]]:
        return [{"ids": np.full(n, n), "mask": np.ones(n, np.int64)} for n in lengths]

    def test_padding(self):
        (first, second) = batches(self.ragged(3, 1, 2), (IDS, MASK), 2)
        assert first["ids"].tolist() == [[3, 3, 3], [1, 0, 0]]
        assert first["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
        assert second["ids"].tolist() == [[2, 2]]

    def test_without_a_mask_only_equal_lengths_are_joined(self):
        alone = IDS.model_copy(update={"pad": None})
        examples = [{"ids": e["ids"]} for e in self.ragged(2, 2, 3, 2)]
        assert [f["ids"].shape for f in batches(examples, (alone,), 8)] == [(2, 2), (1, 3), (1, 2)]

    def test_a_fixed_batch_is_never_filled_up_with_what_was_counted(self):
        fixed = InputSpec(name="x", dtype="float32", shape=(2, 3))
        examples = [{"x": np.full(3, i, np.float32)} for i in range(5)]
        assert batch_size((fixed,), 8) == 2
        assert [f["x"][:, 0].tolist() for f in batches(examples, (fixed,), 2)] == [[0, 1], [2, 3]]
        assert [f["x"][:, 0].tolist() for f in batches(examples[:1], (fixed,), 2)] == [[0, 0]]


def damaged_npz(folder: Path) -> dict[str, Path]:
    """Files that are called `.npz` and are none, by what is wrong with them."""
    np.savez(folder / "good.npz", image=np.ones((4, 2, 3)))
    good = (folder / "good.npz").read_bytes()
    np.save(folder / "array.npy", np.ones(3))
    with zipfile.ZipFile(folder / "text.npz", "w") as archive:
        archive.writestr("image", "no array")
    contents = {
        "cut": good[: len(good) // 2],
        "changed": good[:150] + bytes([good[150] ^ 1]) + good[151:],
        "junk": b"PK\x03\x04" + b"junk" * 20,
        "empty": b"",
        "array": (folder / "array.npy").read_bytes(),
        "text": (folder / "text.npz").read_bytes(),
    }
    for name, content in contents.items():
        (folder / f"{name}.npz").write_bytes(content)
    return {name: folder / f"{name}.npz" for name in contents}


@pytest.mark.parametrize("damage", ["cut", "changed", "junk", "empty", "array", "text"])
def test_npz_files_that_are_none(tmp_path, damage):
    path = damaged_npz(tmp_path)[damage]
    with pytest.raises(CalibrationError, match=rf"{damage}\.npz: ") as caught:
        read_examples(path, dense(IMAGE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity", "1e300"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value):
    path = lines(tmp_path, f'{{"inputs": {{"image": [[0, 0, 0], [0, {value}, 0]]}}}}')
    with pytest.raises(CalibrationError, match=r"line 1: input image: got -?(nan|inf); expected finite numbers"):
        list(read_examples(path, dense(IMAGE)).read())


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path):
    path = lines(tmp_path, {"inputs": {"ids": [1, 2, 3]}})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(list(read_examples(path, dense(IDS, MASK)).read())) == 1


def test_a_line_that_is_nested_too_deep_is_named(tmp_path):
    path = lines(tmp_path, "[" * 200_000)
    with pytest.raises(CalibrationError, match="line 1: not JSON"):
        list(read_examples(path, dense(IDS, MASK)).read())
