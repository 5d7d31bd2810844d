"""The certified screen on really trained weights: nothing missed, and as tight as was measured for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.engine.native import mlp
from tests.engine.native.mlp import Case

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "checkpoints"
CHECKPOINT = SHARED / "opt-relu-docs"
pytestmark = pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="needs ../shared/checkpoints/opt-relu-docs")


@pytest.fixture(scope="module")
def blocks() -> list[Case]:
    """Each layer's block on about a thousand tokens of held-out text, balanced on these rows."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(CHECKPOINT)
    network = transformers.AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    layers = network.model.decoder.layers
    rows: list[list[np.ndarray]] = [[] for _ in layers]
    for layer, seen in zip(layers, rows, strict=True):
        layer.fc1.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].numpy()))
    lines = (SHARED / "docs.jsonl").read_text().splitlines()[:10]
    with torch.no_grad():
        for line in lines:
            tokens = tokenizer(json.loads(line)["text"], return_tensors="pt", truncation=True, max_length=128)
            network(**tokens)
    return [
        case(layer, np.concatenate([r.reshape(-1, r.shape[-1]) for r in seen]))
        for layer, seen in zip(layers, rows, strict=True)
    ]


def case(layer: object, x: np.ndarray) -> Case:
    """Shift by the mean and scale by sqrt(rms(x_d) / rms(up_d)), as calibration does."""
    up = layer.fc1.weight.detach().numpy()
    shift = x.mean(axis=0)
    scale = np.sqrt(np.sqrt(np.mean((x - shift) ** 2, axis=0)) / np.sqrt(np.mean(up**2, axis=0)))
    arrays = {
        "x": x,
        "up": up,
        "down": np.ascontiguousarray(layer.fc2.weight.detach().numpy().T),
        "up_bias": layer.fc1.bias.detach().numpy(),
        "screen_shift": shift,
        "screen_scale": scale,
    }
    return Case(arrays, {"mode": "certified", "activation": "relu"})


@pytest.mark.parametrize("layer", range(4))
def test_nothing_is_missed_and_few_are_checked(isa: str, blocks: list[Case], layer: int) -> None:
    _, active, candidates = blocks[layer].run(isa)
    assert mlp.missed(blocks[layer], active, candidates) == 0
    # Where a row's codes have 7 bits they are twice as coarse; the neurons' have 8 everywhere.
    ratio = candidates.sum() / active.sum()
    assert 1.05 < ratio < (1.5 if isa in ("avx2", "avx512") else 1.35)


def test_without_balancing_many_more_are_checked(blocks: list[Case]) -> None:
    balanced = blocks[1].run()
    plain = {key: array for key, array in blocks[1].arrays.items() if not key.startswith("screen")}
    unbalanced = Case(plain, blocks[1].attributes).run()
    np.testing.assert_array_equal(balanced[1], unbalanced[1])
    assert unbalanced[2].sum() > balanced[2].sum()
