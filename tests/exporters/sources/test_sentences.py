"""Pooling against sentence-transformers' formulas, written out by hand in NumPy, and what its files may say."""

import json

import numpy as np
import pytest
import torch

import lazyneuron
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources.sentences import Pooling, pooling_of
from tests.support import checkpoints

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
SWITCH = {
    mode: f"pooling_mode_{mode}{'' if 'token' in mode else '_token' if mode == 'cls' else '_tokens'}" for mode in MODES
}


def by_hand(states: np.ndarray, mode: str) -> np.ndarray:
    """Pool one text's real tokens [tokens, d]."""
    weights = np.arange(1, len(states) + 1)[:, None]
    return {
        "cls": states[0],
        "max": states.max(0),
        "mean": states.mean(0),
        "mean_sqrt_len_tokens": states.sum(0) / len(states) ** 0.5,
        "weightedmean": (states * weights).sum(0) / weights.sum(),
        "lasttoken": states[-1],
    }[mode]


@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES), ("cls", "max", "mean")])
@pytest.mark.parametrize("normalise", [False, True])
def test_pooling_is_over_real_tokens_alone(modes, normalise):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(4, 6, 5)).astype(np.float32)
    first, last = [0, 0, 2, 1], [6, 3, 6, 2]  # all real, padded after, padded before, one token
    mask = np.array([[a <= i < b for i in range(6)] for a, b in zip(first, last, strict=True)], np.int64)
    vectors = Pooling(modes, normalise=normalise)(torch.from_numpy(states), torch.from_numpy(mask)).numpy()
    for vector, rows, real in zip(vectors, states, mask, strict=True):
        if "weightedmean" in modes and real[0] == 0:
            continue  # there the places count from the padding on
        expected = np.concatenate([by_hand(rows[real != 0], mode) for mode in modes])
        expected /= np.linalg.norm(expected) if normalise else 1
        np.testing.assert_allclose(vector, expected, rtol=0, atol=1e-6)


def describe(folder, pooling, *, modules=("Transformer", "Pooling", "Normalize")) -> None:
    """Write what sentence-transformers writes beside a model."""
    places = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    kinds = [{"idx": i, "path": places[m], "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(kinds))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("mode", MODES)
def test_files_old_and_new(tmp_path, mode):
    switches = {switch: name == mode for name, switch in SWITCH.items()}
    describe(tmp_path, {"word_embedding_dimension": 32, **switches}, modules=("Transformer", "Pooling"))
    assert pooling_of(tmp_path, "x", None) == Pooling((mode,), normalise=False)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": mode}))
    assert pooling_of(tmp_path, "x", "sentence-embedding") == Pooling((mode,), normalise=False)
    assert pooling_of(tmp_path, "x", "feature-extraction") is None


def test_several_modes_are_joined_in_one_order(tmp_path):
    describe(tmp_path, {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True})
    assert pooling_of(tmp_path, "x", None) == Pooling(("cls", "mean"), normalise=True)


def test_without_files_the_mean_is_taken_when_it_is_asked_for(tmp_path):
    assert pooling_of(tmp_path, "x", None) is None
    assert pooling_of(tmp_path, "x", "sentence-embedding") == Pooling(("mean",), normalise=False)


@pytest.mark.parametrize(
    ("pooling", "modules", "says"),
    [
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"), "has a Dense, which is not taken"),
        ({"pooling_mode": "attention"}, ("Transformer", "Pooling"), "pooling ('attention',) is not one of cls, max"),
        ({}, ("Transformer", "Pooling"), "pooling by nothing is not one of"),
        ({}, ("Transformer",), "pooling by nothing is not one of"),
        ([], ("Transformer", "Pooling"), "its pooling is not readable"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, pooling, modules, says):
    describe(tmp_path, pooling, modules=modules)
    with pytest.raises(CheckpointError) as caught:
        pooling_of(tmp_path, "x", None)
    assert says in str(caught.value)
    assert "choose --task feature-extraction" in str(caught.value)


def test_a_whole_checkpoint_embeds_sentences(tmp_path):
    model = checkpoints.bert(tmp_path / "checkpoint", "Model")
    describe(tmp_path / "checkpoint", {"pooling_mode_mean_tokens": True})
    (tmp_path / "checkpoint" / "sentence_bert_config.json").write_text('{"max_seq_length": 8, "do_lower_case": false}')
    report = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "sentences")
    manifest = report.manifest
    assert (manifest.task, [o.name for o in manifest.outputs]) == ("sentence-embedding", ["sentence_embedding"])
    assert (manifest.tokenizer.max_length, manifest.tokenizer.truncate) == (8, "right")
    loaded = lazyneuron.load(report.path)
    texts = ["few of them work", "The lazy neurons sleep while few of them work and save much time for all", "all"]
    result = loaded.run([loaded.request(text) for text in texts])
    for text, prediction in zip(texts, result.predictions, strict=True):
        ids = torch.tensor([[2, *checkpoints.word_pieces().encode(text, add_special_tokens=False).ids[:6], 3]])
        with torch.no_grad():
            expected = model(input_ids=ids).last_hidden_state[0].mean(0)
        expected /= expected.norm()
        np.testing.assert_allclose(prediction.answer.vector, expected, rtol=0, atol=1e-5)
        assert prediction.answer.pooling == "model"
