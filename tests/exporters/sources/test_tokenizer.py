"""A folder's tokenizer gives what transformers' gives, special tokens and all."""

import json

import pytest
import transformers
from tokenizers import Tokenizer

from lazyneuron.exporters.sources.tokenizer import tokenizer_of
from tests.support.checkpoints import PIECES, bytes_with_start, word_pieces

TEXTS = ["The LAZY neurons sleep.", "saving [MASK] time", "neurons, 🦥 naïve", "[CLS] all [SEP]"]


def assert_same(folder) -> None:
    ours = Tokenizer.from_str(tokenizer_of(folder, None).content)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


def test_a_plain_one(tmp_path):
    transformers.PreTrainedTokenizerFast(tokenizer_object=word_pieces(), mask_token="[MASK]").save_pretrained(tmp_path)
    assert_same(tmp_path)
    assert tokenizer_of(tmp_path, None).mask_token == "[MASK]"


@pytest.mark.parametrize("lower", [True, False])
def test_a_class_that_lower_cases_or_does_not(tmp_path, lower):
    """Its settings stand beside tokenizer.json, and win."""
    word_pieces().save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower, "mask_token": "[MASK]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert_same(tmp_path)


@pytest.mark.parametrize("start", [True, False])
def test_a_class_that_may_put_a_token_before_the_text(tmp_path, start):
    tokenizer = bytes_with_start()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": start, "bos_token": "</s>", "unk_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert_same(tmp_path)


def test_an_old_one_without_tokenizer_json(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert_same(tmp_path)


def test_none(tmp_path):
    assert tokenizer_of(tmp_path, 48) is None


@pytest.mark.parametrize(
    ("files", "longest", "length", "truncate"),
    [
        ({}, None, 512, None),
        ({}, 48, 48, None),
        ({"tokenizer_config.json": {"model_max_length": 40}}, 48, 40, None),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 48, 48, None),
        ({"sentence_bert_config.json": {"max_seq_length": 20}}, 48, 20, "right"),
        ({"sentence_bert_config.json": {"max_seq_length": 90}}, 48, 48, "right"),
        (
            {"sentence_bert_config.json": {"max_seq_length": 20}, "tokenizer_config.json": {"truncation_side": "left"}},
            48,
            20,
            "left",
        ),
        ({"sentence_bert_config.json": {"max_seq_length": None}}, 48, 48, None),
        ({"tokenizer_config.json": "no object"}, 48, 48, None),
    ],
)
def test_lengths(tmp_path, files, longest, length, truncate):
    word_pieces().save(str(tmp_path / "tokenizer.json"))
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    made = tokenizer_of(tmp_path, longest)
    assert (made.max_length, made.truncate) == (length, truncate)


@pytest.mark.parametrize("direction", ["left", "right"])
def test_a_truncation_in_tokenizer_json(tmp_path, direction):
    tokenizer = word_pieces()
    tokenizer.enable_truncation(7, direction=direction)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    made = tokenizer_of(tmp_path, 48)
    assert (made.max_length, made.truncate) == (7, direction)


def test_a_sentence_length_goes_before_that(tmp_path):
    tokenizer = word_pieces()
    tokenizer.enable_truncation(7)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    made = tokenizer_of(tmp_path, 48)
    assert (made.max_length, made.truncate) == (20, "right")
