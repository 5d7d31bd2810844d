"""Text heads and the image classifier against transformers' pipelines, on tiny random models.

The logits are PyTorch's, so what is compared is what comes before and after the graph.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from lazyneuron.engine.artifact import InputSpec, OutputSpec, TokenizerSpec
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.heads.answers import Classification, Embedding
from lazyneuron.engine.heads.reader import Reader
from lazyneuron.engine.image import ImageEncoder
from lazyneuron.engine.requests import RequestMaker
from lazyneuron.engine.text import TextEncoder
from lazyneuron.exporters.sources.image_processor import image_spec
from lazyneuron.exporters.sources.tokenizer import tokenizer_of
from tests.support import checkpoints
from tests.support.artifacts import manifest_of

TOLERANCE = 1e-6  # of a probability: the pipelines' own are float32
LABELS = {0: "O", 1: "sleeper", 2: "worker", 3: "time"}
TEXT = "The LAZY neurons sleep, while few of them work for saving time."
TEXTS = [TEXT, "all", "Neurons, neurons & neurons…", "[MASK]"]

AXES = ("batch", "sequence")
IDS = InputSpec(name="input_ids", dtype="int64", shape=AXES, role="tokens", pad=0)
MASK = InputSpec(name="attention_mask", dtype="int64", shape=AXES, role="mask", pad=0)
PIXELS = InputSpec(name="pixel_values", dtype="float32", shape=("batch", 3, 24, 24))


class Loaded:
    """A checkpoint as the engine would have it, but with PyTorch for a graph."""

    def __init__(self, folder: Path, model: torch.nn.Module, task: str, output: tuple, **more) -> None:
        self.torch, self.inputs = model, (PIXELS,) if "image" in task else (IDS, MASK)
        tokenizer = None if "image" in task else tokenizer_of(folder, 48)
        spec = tokenizer and TokenizerSpec(max_length=tokenizer.max_length, mask_token=tokenizer.mask_token)
        self.output = OutputSpec(
            name="last_hidden_state" if "extraction" in task else "logits", dtype="float32", shape=output
        )
        self.manifest = manifest_of(
            task=task, inputs=self.inputs, outputs=(self.output,), tokenizer=spec, labels=tuple(LABELS.values()), **more
        )
        self.encoder = tokenizer and TextEncoder.load(folder, self.manifest)
        self.image_encoder = ImageEncoder(image_spec(folder, self.inputs)[0]) if "image" in task else None
        self.reader = Reader(self.manifest, self.encoder)

    def answer(self, given: str | bytes | dict[str, np.ndarray], top: int = 4):
        origin = None
        if not isinstance(given, dict):
            given, origin = (self.encoder if isinstance(given, str) else self.image_encoder).encode(given)
        request = RequestMaker(self.manifest).make(given, 1.0, origin)
        with torch.no_grad():
            output = getattr(
                self.torch(**{k: torch.from_numpy(v) for k, v in request.inputs.items()}), self.output.name
            )
        return self.reader.read(request, {self.output.name: output.numpy()}, top)


def pipeline(folder: Path, task: str, **more):
    return transformers.pipeline(task, model=str(folder), device="cpu", **more)


def scores(candidates) -> dict[str, float]:
    return {c.label: c.score for c in candidates}


@pytest.mark.parametrize(
    ("problem", "function"),
    [("single_label", "softmax"), ("multi_label", "sigmoid"), ("regression", "none")],
)
def test_text_classification(tmp_path, problem, function):
    model = checkpoints.bert(tmp_path, "ForSequenceClassification", id2label=LABELS)
    ours = Loaded(tmp_path, model, "text-classification", ("batch", 4), problem=problem)
    theirs = pipeline(tmp_path, "text-classification")
    for text in TEXTS:
        (answer,) = ours.answer(text)
        expected = theirs(text, top_k=None, function_to_apply=function)
        assert list(answer.labels) == [e["label"] for e in expected]
        assert scores(answer.candidates) == pytest.approx({e["label"]: e["score"] for e in expected}, abs=TOLERANCE)
        assert answer.problem == problem
    assert len(ours.answer(TEXT, top=2)[0].candidates) == 2


def test_token_classification(tmp_path):
    model = checkpoints.bert(tmp_path, "ForTokenClassification", id2label=LABELS)
    ours = Loaded(tmp_path, model, "token-classification", ("batch", "sequence", 4))
    theirs = pipeline(tmp_path, "token-classification", ignore_labels=[])
    for text in TEXTS:
        (answer,) = ours.answer(text)
        expected = theirs(text)
        # The pipeline puts the text for a piece that the vocabulary has not.
        pieces = [text[slice(*t.span)] if t.piece == "[UNK]" else t.piece for t in answer.tokens]
        assert pieces == [e["word"] for e in expected]
        assert [t.span for t in answer.tokens] == [(e["start"], e["end"]) for e in expected]
        assert list(answer.labels) == [e["entity"] for e in expected]
        best = [t.candidates[0].score for t in answer.tokens]
        assert best == pytest.approx([e["score"] for e in expected], abs=TOLERANCE)


def test_fill_mask(tmp_path):
    ours = Loaded(tmp_path, checkpoints.bert(tmp_path, "ForMaskedLM"), "fill-mask", ("batch", "sequence", 29))
    theirs = pipeline(tmp_path, "fill-mask", top_k=4)
    for text in ["The lazy [MASK] sleep.", "[MASK] neurons [MASK] while [MASK]", "[MASK]"]:
        (answer,) = ours.answer(text)
        expected = theirs(text)
        expected = expected if isinstance(expected[0], list) else [expected]
        for mask, words in zip(answer.masks, expected, strict=True):
            assert [(c.label, c.id) for c in mask.candidates] == [(w["token_str"], w["token"]) for w in words]
            assert [c.score for c in mask.candidates] == pytest.approx([w["score"] for w in words], abs=TOLERANCE)
            assert text[slice(*mask.span)] == "[MASK]"
    assert answer.masks[0].position == 1
    with pytest.raises(InputError, match=r"text: got no mask token; expected \[MASK\] where a word is to be filled in"):
        ours.answer("The lazy neurons sleep.")


def test_next_token(tmp_path):
    model = checkpoints.opt(tmp_path)
    ours = Loaded(tmp_path, model, "text-generation", ("batch", "sequence", 259))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ["The lazy", "\n", "naïve 🦥"]:
        (answer,) = ours.answer(text)
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        probabilities, ids = logits.softmax(-1).topk(4)
        assert [c.id for c in answer.candidates] == ids.tolist()
        assert [c.score for c in answer.candidates] == pytest.approx(probabilities.tolist(), abs=TOLERANCE)
    assert ours.encoder.word(tokenizer.convert_tokens_to_ids("Ġ")) == " "
    assert ours.encoder.word(tokenizer.convert_tokens_to_ids("Ê")) == "Ê", "half a character is told as its piece"


def test_feature_extraction_is_the_mean_over_real_tokens(tmp_path):
    ours = Loaded(tmp_path, checkpoints.bert(tmp_path, "Model"), "feature-extraction", ("batch", "sequence", 32))
    theirs = pipeline(tmp_path, "feature-extraction")
    for text in TEXTS:
        (answer,) = ours.answer(text)
        np.testing.assert_allclose(answer.vector, np.mean(theirs(text)[0], axis=0), atol=1e-5)
        assert (answer.pooling, answer.labels) == ("mean", ())


def test_tensors_are_read_like_text_and_padding_is_not(tmp_path):
    model = checkpoints.bert(tmp_path, "ForTokenClassification", id2label=LABELS)
    ours = Loaded(tmp_path, model, "token-classification", ("batch", "sequence", 4))
    (by_text,) = ours.answer("lazy neurons")
    ids, mask = [[2, 6, 7, 3, 0, 0], [2, 5, 3, 0, 0, 0]], [[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]]
    by_ids, other = ours.answer({"input_ids": np.array(ids), "attention_mask": np.array(mask)})
    assert [(t.piece, t.span) for t in by_ids.tokens] == [(p, None) for p in ("[CLS]", "lazy", "neurons", "[SEP]")]
    for one, two in zip(by_ids.tokens[1:3], by_text.tokens, strict=True):
        assert scores(one.candidates) == pytest.approx(scores(two.candidates), abs=1e-5)
    assert len(other.tokens) == 3


def test_image_classification(tmp_path):
    from PIL import Image

    model = checkpoints.vit(tmp_path, id2label=LABELS)
    ours = Loaded(tmp_path, model, "image-classification", ("batch", 4), problem="single_label")
    rng = np.random.default_rng(0)
    for size in [(50, 37), (24, 24), (7, 90)]:
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / "image.png")
        (answer,) = ours.answer((tmp_path / "image.png").read_bytes())
        expected = pipeline(tmp_path, "image-classification", top_k=4)(str(tmp_path / "image.png"))
        assert isinstance(answer, Classification)
        assert list(answer.labels) == [e["label"] for e in expected]
        assert scores(answer.candidates) == pytest.approx({e["label"]: e["score"] for e in expected}, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("task", "shape"),
    [
        ("text-classification", ("batch", "sequence", 4)),
        ("fill-mask", ("batch", 4)),
        ("object-detection", ("batch", 5, 4)),
        ("sentence-embedding", ("batch", "sequence", 4)),
        ("text-classification", (4, 5)),
        ("chess", ("batch", 4)),
    ],
)
def test_outputs_of_another_shape_are_not_read(task, shape):
    output = OutputSpec(name="logits", dtype="float32", shape=shape)
    manifest = manifest_of(task=task, inputs=(IDS, MASK), outputs=(output,))
    request = RequestMaker(manifest).make({"input_ids": np.array([[2, 3]])}, 1.0)
    assert Reader(manifest, None).read(request, {"logits": np.zeros((1, 2, 4), np.float32)}) == ()


def test_a_models_own_vector_is_left_as_it_is():
    output = OutputSpec(name="sentence_embedding", dtype="float32", shape=("batch", 4))
    manifest = manifest_of(task="sentence-embedding", inputs=(IDS, MASK), outputs=(output,))
    request = RequestMaker(manifest).make({"input_ids": np.array([[2, 3]])}, 1.0)
    vector = np.array([[3.0, 0.0, 4.0, 0.0]], np.float32)
    (answer,) = Reader(manifest, None).read(request, {"sentence_embedding": vector})
    assert isinstance(answer, Embedding)
    assert (answer.vector.tolist(), answer.pooling, answer.norm) == (vector[0].tolist(), "model", 5.0)
