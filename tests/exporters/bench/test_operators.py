"""The sweep in small. Nothing here depends on how long anything took."""

import numpy as np
import pytest

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.planted import plant
from lazyneuron.exporters.bench import graphs, operators
from lazyneuron.exporters.bench.operators import Grid, bench_operators

SMALL = Grid(
    shapes=((32, 64), (64, 128)),
    rows=(1, 16),
    densities=(0.1, 1.0),
    weights=("float32", "int8"),
    rank=8,
    seconds=0.0,
    least=2,
)


def test_every_kind_of_block_is_measured_at_every_shape_and_row_count():
    costs = bench_operators(SMALL, threads=1)
    found = {(c.mode, c.weights, c.gated, c.d_model, c.d_ff, c.rows) for c in costs.curves}
    kinds = {("dense", "float32", False), ("dense", "float32", True)}
    kinds |= {("int8", "float32", False), ("int8", "float32", True)}
    kinds |= {(mode, w, False) for mode in ("down", "exact", "certified", "predictor") for w in SMALL.weights}
    kinds |= {("gate", w, True) for w in SMALL.weights}
    assert found == {(*kind, *shape, rows) for kind in kinds for shape in SMALL.shapes for rows in SMALL.rows}
    assert len(costs.curves) == len(found)
    assert costs.threads == 1
    assert costs.rank == 8


def test_candidates_are_the_operators_own_count():
    costs = bench_operators(SMALL, threads=1)
    for curve in costs.curves:
        if curve.mode in {"certified", "predictor", "gate"}:
            assert curve.density == SMALL.densities
            assert 0.05 < curve.candidates[0] < curve.candidates[1]
            assert curve.candidates[1] > 0.9
        else:
            assert set(curve.candidates) == {1.0}


def test_few_rows_have_the_planted_density_too():
    (block,) = plant(np.random.default_rng(0), 32, 64, [0.1], rows=64)
    active = (block.typical_first().hidden() > 0).sum(axis=1)
    away = np.abs(active - active.mean())
    assert (np.diff(away) >= 0).all()
    assert away[0] < 1 < away[-1]


def test_a_wrong_answer_is_not_timed(monkeypatch):
    monkeypatch.setattr(graphs, "certified", lambda block, weights: graphs.exact(block.__class__(**_broken(block))))
    with pytest.raises(
        ConfigurationError, match=r"mode certified: the operator's answer is off by .*nothing was timed"
    ):
        bench_operators(SMALL, threads=1)


def _broken(block):
    return {name: getattr(block, name) for name in block.__slots__} | {"down": 2 * block.down}


def test_the_named_grids_hold_the_densities_asked_for():
    assert operators.GRIDS["default"].densities == (0.01, 0.03, 0.063, 0.1, 0.3, 0.5, 1.0)
    assert set(operators.GRIDS) == {"quick", "default", "full"}
