import numpy as np
import pytest

from lazyneuron.engine.artifact import Calibration, Density
from lazyneuron.exporters.doubts import doubts
from lazyneuron.exporters.reports import BlockSparsity

ENOUGH = Calibration(kind="data", name="data.jsonl", examples=500)


def block(name: str = "mlp", *, rows: int = 50_000, interval: tuple[float, float] | None = (0.099, 0.101)):
    density = Density(rows=rows, never_active=0.0, **dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), 0.1))
    return BlockSparsity(name, "relu", 4, 16, 4, 0, density, np.zeros(17, np.int64), interval=interval)


def test_enough_data_raises_no_doubt():
    assert doubts([block(), block(interval=(0.095, 0.105))], ENOUGH) == ()
    assert doubts([], Calibration(kind="random", name=None, examples=1)) == ()


@pytest.mark.parametrize(
    ("blocks", "calibration", "begins"),
    [
        ([block()], Calibration(kind="random", name=None, examples=64), "On random input"),
        ([block()], Calibration(kind="data", name="d", examples=1), "1 example can hardly stand for all input"),
        ([block(), block(rows=999)], ENOUGH, "999 rows are few: the 99th percentile"),
        (
            [block(), block("wide", interval=(0.08, 0.12)), block("less", interval=(0.09, 0.11))],
            ENOUGH,
            "The mean density is uncertain by more than a tenth of itself in 2 of 3 blocks (95 % interval over "
            "examples; the widest, wide: 8.00% to 12.00%)",
        ),
    ],
)
def test_too_little_data_is_said(blocks, calibration, begins):
    (doubt,) = doubts(blocks, calibration)
    assert doubt.startswith(begins)
