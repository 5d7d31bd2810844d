"""Each architecture that is promised, from a configuration with random weights: found, rewritten and held to PyTorch.

`python -m benchmarks.architectures` does the same for many more.
"""

from collections.abc import Iterator

import pytest

from tests.support.architectures import Opened, hold, open_architecture

TOLERANCE = 1e-4

GELU = [("exact", "gelu")]
KEPT, GATE = [("exact", "identity")], [("gate", "relu")]
"""What `exact` does: an activation that the operator computes, one that stays in the graph, a gate that spares more."""

EXPECTED: dict[str, tuple[str, list[str], list[tuple[str, str]]]] = {
    "T5 v1.0 (relu)": ("seq2seq", ["relu"] * 2, [("exact", "relu")] * 2),
    "T5 v1.1 (gated gelu)": ("seq2seq", ["gelu_tanh"] * 2, KEPT * 2),
    "T5 v1.1 (gated relu)": ("seq2seq", ["relu"] * 2, GATE * 2),
    "M2M100": ("seq2seq", ["relu"] * 2, [("exact", "relu")] * 2),
    "DETR": ("object-detection", ["relu"] * 3, [("exact", "relu")] * 3),
    "Whisper": ("seq2seq", ["gelu"] * 2, GELU * 2),
    "GPT-2 (gelu_new)": ("text-generation", ["gelu_tanh"], [("exact", "gelu_tanh")]),
    "Llama": ("text-generation", ["silu"], KEPT),
    "Gemma": ("text-generation", ["gelu_tanh"], KEPT),
    "Switch": ("seq2seq", ["relu"] * 10, [("exact", "relu")] * 10),
    "ModernBERT": ("feature-extraction", ["gelu"], KEPT),
    "CLIP": ("feature-extraction", ["quick_gelu"] * 2, KEPT * 2),
    "FNet": ("feature-extraction", ["gelu_tanh"], [("exact", "gelu_tanh")]),
}
"""Task, activations of the blocks that are found, and what mode exact does to each."""
NOT_TAKEN = {"DETR": ["its up projection is the down projection of bbox_predictor.layers, which is taken"]}


@pytest.fixture(scope="module", params=EXPECTED)
def opened(request, tmp_path_factory) -> Iterator[tuple[str, Opened]]:
    name = request.param
    yield name, open_architecture(name, tmp_path_factory.mktemp("architecture"))


def test_every_block_is_found(opened):
    name, found = opened
    task, activations, _ = EXPECTED[name]
    assert found.dense.task == task
    assert [block.activation for block in found.blocks.values()] == activations
    assert [reason for _, reason in found.skipped] == NOT_TAKEN.get(name, [])


@pytest.mark.parametrize("mode", ["exact", "certified"])
def test_outputs_are_pytorchs(opened, mode, tmp_path):
    name, found = opened
    held = hold(found, mode, tmp_path)
    assert held.error <= TOLERANCE
    assert held.batched is (name not in {"FNet", "DETR"})  # which are not told what is padding
    certified = [("certified", c) if c == "relu" and m == "exact" else (m, c) for m, c in EXPECTED[name][2]]
    assert held.operators == (EXPECTED[name][2] if mode == "exact" else certified)


def test_the_encoder_alone_is_a_task(tmp_path):
    found = open_architecture("T5 v1.0 (relu)", tmp_path / "checkpoint", "feature-extraction")
    assert [spec.name for spec in found.dense.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in found.dense.outputs] == ["last_hidden_state"]
    assert hold(found, "exact", tmp_path).error <= TOLERANCE
