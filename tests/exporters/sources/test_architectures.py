"""Each architecture that is promised, from a configuration with random weights: found, rewritten and held to PyTorch.

`python -m benchmarks.architectures` does the same for many more.
"""

import pytest

from tests.support.architectures import Opened, hold, open_architecture

TOLERANCE = 1e-4

GELU = [("exact", "gelu")]
KEPT, GATE = [("exact", "identity")], [("gate", "relu")]
"""What `exact` does: an activation that the operator computes, one that stays in the graph, a gate that spares more."""

EXPECTED: dict[str, tuple[str, list[str], list[tuple[str, str]]]] = {
    "T5 v1.0 (relu)": ("seq2seq", ["relu"] * 2, [("exact", "relu")] * 2),
    "T5 v1.1 (gated gelu)": ("feature-extraction", ["gelu_tanh"], KEPT),
    "T5 v1.1 (gated relu)": ("feature-extraction", ["relu"], GATE),
    "M2M100": ("seq2seq", ["relu"] * 2, [("exact", "relu")] * 2),
    "DETR": ("object-detection", ["relu"] * 3, [("exact", "relu")] * 3),
    "Whisper": ("seq2seq", ["gelu"] * 2, GELU * 2),
    "GPT-2 (gelu_new)": ("text-generation", ["gelu_tanh"], [("exact", "gelu_tanh")]),
    "Llama": ("text-generation", ["silu"], KEPT),
    "Gemma": ("text-generation", ["gelu_tanh"], KEPT),
    "Switch": ("seq2seq", ["relu"] * 4, [("exact", "relu")] * 4),
    "ModernBERT": ("feature-extraction", ["gelu"], KEPT),
}
"""The task (of some encoder–decoders only the encoder's), the blocks' activations, and what mode exact does to each."""
NOT_TAKEN = {"DETR": ["its up projection is the down projection of bbox_predictor.layers, which is taken"]}


@pytest.fixture(scope="module", params=EXPECTED)
def opened(request, tmp_path_factory) -> tuple[str, Opened]:
    name = request.param
    return name, open_architecture(name, tmp_path_factory.mktemp("architecture"), EXPECTED[name][0])


def test_every_block_is_found(opened):
    name, found = opened
    task, activations, _ = EXPECTED[name]
    assert found.dense.task == task
    halves = {spec.name.startswith("decoder_") for spec in found.dense.inputs}
    assert halves == ({False, True} if task == "seq2seq" else {False})
    assert [block.activation for block in found.blocks.values()] == activations
    assert [reason for _, reason in found.skipped] == NOT_TAKEN.get(name, [])


@pytest.mark.parametrize("mode", ["exact", "certified"])
def test_outputs_are_pytorchs(opened, mode, tmp_path):
    name, found = opened
    held = hold(found, mode, tmp_path)
    assert held.error <= TOLERANCE
    assert held.batched is (name != "DETR")  # whose images differ in size
    certified = [("certified", c) if c == "relu" and m == "exact" else (m, c) for m, c in EXPECTED[name][2]]
    assert held.operators == (EXPECTED[name][2] if mode == "exact" else certified)
