"""Texts that are too long, too short, or lack their mask; an encoder–decoder's target."""

import numpy as np
import pytest

from lazyneuron.engine.artifact import InputSpec, TokenizerSpec
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.text import TextEncoder
from tests.support.checkpoints import bytes_with_start, word_pieces

SHAPE = ("batch", "sequence")
INPUTS = (
    InputSpec(name="input_ids", dtype="int64", shape=SHAPE, role="tokens", pad=0),
    InputSpec(name="attention_mask", dtype="int64", shape=SHAPE, role="mask", pad=0),
    InputSpec(name="token_type_ids", dtype="int32", shape=SHAPE, role="token_types", pad=0),
)


def encoder(**spec) -> TextEncoder:
    return TextEncoder(word_pieces(), INPUTS, TokenizerSpec(**{"max_length": 6} | spec))


def test_a_text_becomes_every_input_and_its_tokens():
    inputs, text = encoder().encode("lazy neurons")
    assert {name: array.tolist() for name, array in inputs.items()} == {
        "input_ids": [[2, 6, 7, 3]],
        "attention_mask": [[1, 1, 1, 1]],
        "token_type_ids": [[0, 0, 0, 0]],
    }
    assert [inputs[spec.name].dtype for spec in INPUTS] == [np.int64, np.int64, np.int32]
    assert [(t.piece, t.span, t.added) for t in text.tokens] == [
        ("[CLS]", None, True),
        ("lazy", (0, 4), False),
        ("neurons", (5, 12), False),
        ("[SEP]", None, True),
    ]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_text_is_refused_though_the_tokenizer_adds_tokens(text):
    with pytest.raises(InputError, match="text: got 0 tokens; expected 1 to 6"):
        encoder().encode(text)


def test_spans_count_characters_not_bytes():
    made = TextEncoder(bytes_with_start(), INPUTS[:2], TokenizerSpec(max_length=99))
    _, text = made.encode("é🦥a")
    assert [t.span for t in text.tokens] == [None, (0, 1), (0, 1), *[(1, 2)] * 4, (2, 3)]


def test_a_long_text_is_refused_or_cut_as_the_checkpoint_says():
    with pytest.raises(InputError, match="text: got 9 tokens; expected 1 to 6"):
        encoder().encode("the lazy neurons sleep while few of")
    cut = {side: encoder(truncate=side).encode("the lazy neurons sleep while few of")[0] for side in ("left", "right")}
    assert cut["right"]["input_ids"].tolist() == [[2, 5, 6, 7, 8, 3]]
    assert cut["left"]["input_ids"].tolist() == [[2, 8, 9, 10, 11, 3]]


def test_a_decoder_beside_an_encoder_begins_with_its_start_token():
    target = tuple(
        InputSpec(name=f"decoder_{s.name}", dtype=s.dtype, shape=("batch", "target"), role=s.role, pad=0)
        for s in INPUTS[:2]
    )
    made = TextEncoder(word_pieces(), INPUTS[:2] + target, TokenizerSpec(max_length=6, decoder_start=3))
    inputs, _ = made.encode("lazy neurons")
    assert inputs["input_ids"].shape == (1, 4)
    assert inputs["decoder_input_ids"].tolist() == [[3]]
    assert inputs["decoder_attention_mask"].tolist() == [[1]]


def test_a_mask_token_that_the_vocabulary_lacks_is_none():
    assert encoder(mask_token="<mask>").mask_id is None
    assert encoder(mask_token="[MASK]").mask_id == 4
