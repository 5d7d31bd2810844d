"""The blocks that are timed compute what they should, at the density that was planted."""

import numpy as np
import pytest

from lazyneuron.engine.planted import PREDICTED_FALL, plant
from lazyneuron.engine.session import open_session
from lazyneuron.exporters.bench import graphs

D, F, ROWS = 64, 256, 128
WEIGHTS = {"float32": 1e-5, "float16": 2e-3, "int8": 4e-2}
"""The largest error that the weights' type explains, relative to the largest output."""


def run(model, **feed):
    session = open_session(model.SerializeToString(), threads=1)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def error(y, expected):
    return np.abs(y - expected).max() / np.abs(expected).max()


@pytest.fixture(scope="module")
def block():
    (made,) = plant(np.random.default_rng(0), D, F, [0.1], rows=ROWS)
    return made


def test_blocks_of_several_densities_share_their_weights():
    densities = (0.01, 0.1, 0.5, 1.0)
    blocks = plant(np.random.default_rng(0), D, F, densities, rows=ROWS)
    for density, made in zip(densities, blocks, strict=True):
        assert (made.hidden() > 0).mean() == pytest.approx(density, rel=0.25)
        assert made.up is blocks[0].up


def test_dense(block):
    assert error(run(graphs.dense(block), x=block.rows)["y"], block.hidden() @ block.down) < 1e-5
    gated = block.hidden() * (block.rows @ block.gate.T)
    assert error(run(graphs.dense(block, gated=True), x=block.rows)["y"], gated @ block.down) < 1e-5


def test_int8_is_close(block):
    assert 0 < error(run(graphs.to_int8(graphs.dense(block)), x=block.rows)["y"], block.hidden() @ block.down) < 0.1


@pytest.mark.parametrize("weights", WEIGHTS)
def test_down_exact_and_certified(block, weights):
    expected = block.hidden() @ block.down
    results = [
        run(graphs.down(block, weights), pre=block.pre),
        run(graphs.exact(block, weights), x=block.rows),
        run(graphs.certified(block, weights), x=block.rows),
    ]
    for result in results:
        assert error(result["y"], expected) < WEIGHTS[weights]
        assert result["active"].mean() / F == pytest.approx(0.1, rel=0.2)
    assert (results[2]["candidates"] >= results[2]["active"]).all()
    assert results[2]["candidates"].mean() < F / 2


@pytest.mark.parametrize("weights", WEIGHTS)
def test_predictor_keeps_its_recall(weights):
    (block,) = plant(np.random.default_rng(0), D, F, [0.1], rows=ROWS, fall=PREDICTED_FALL)
    result = run(graphs.predictor(block, weights, rank=16, recall=0.95), x=block.rows)
    truly = (block.hidden() > 0).sum()
    assert 0.9 * truly < result["active"].sum() <= 1.05 * truly
    assert result["active"].sum() <= result["candidates"].sum() < block.rows.shape[0] * F / 2


@pytest.mark.parametrize("weights", WEIGHTS)
def test_gate(block, weights):
    result = run(graphs.gate(block, weights), x=block.rows)
    expected = (block.hidden() * (block.rows @ block.gate.T)) @ block.down
    assert error(result["y"], expected) < WEIGHTS[weights]
    assert result["candidates"].mean() / F == pytest.approx(0.1, rel=0.2)
