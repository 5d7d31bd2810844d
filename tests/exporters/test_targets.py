"""Targets beside texts, for an encoder–decoder."""

import json

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lazyneuron.engine.artifact import InputSpec, Source
from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.examples import read_examples
from lazyneuron.exporters.sources import DenseModel
from lazyneuron.exporters.sources.dense import Tokenizer as Text

WORDS = {"<unk>": 0, "</s>": 1, "<start>": 2, "a": 3, "red": 4, "house": 5, "ein": 6, "rotes": 7, "Haus": 8}


@pytest.fixture
def dense() -> DenseModel:
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    shapes = {"input_ids": "sequence", "attention_mask": "sequence"}
    shapes |= {"decoder_input_ids": "target", "decoder_attention_mask": "target"}
    inputs = tuple(
        InputSpec(name=n, dtype="int64", shape=("batch", axis), role="mask" if "mask" in n else "tokens", pad=0.0)
        for n, axis in shapes.items()
    )
    return DenseModel(
        model=ir.Model(ir.Graph([], [], nodes=[]), ir_version=10),
        source=Source(kind="hugging_face", name="none", digest="sha256:0"),
        inputs=inputs,
        outputs=(),
        task="seq2seq",
        max_lengths={"target": 4},
        tokenizer=Text(tokenizer.to_str(), 16, decoder_start=2),
    )


def read(path, dense, **line) -> dict[str, list[int]]:
    path.write_text(json.dumps(line))
    (example,) = read_examples(path, dense).read()
    return {name: np.asarray(array).tolist() for name, array in example.items()}


def test_the_decoder_gets_the_target_one_token_late(dense, tmp_path):
    example = read(tmp_path / "d.jsonl", dense, text="a red house", target="ein rotes Haus")
    assert example["input_ids"] == [3, 4, 5, 1]
    assert example["decoder_input_ids"] == [2, 6, 7, 8]
    assert example["decoder_attention_mask"] == [1, 1, 1, 1]


def test_without_a_target_it_is_at_its_first_step(dense, tmp_path):
    example = read(tmp_path / "d.jsonl", dense, text="a red house")
    assert (example["decoder_input_ids"], example["decoder_attention_mask"]) == ([2], [1])
    assert example["attention_mask"] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("target", "message"),
    [(7, r'got "target" 7; expected a text'), ("ein rotes Haus Haus", "the target has 5 tokens; expected at most 4")],
)
def test_refusals(dense, tmp_path, target, message):
    with pytest.raises(CalibrationError, match=message):
        read(tmp_path / "d.jsonl", dense, text="a", target=target)
