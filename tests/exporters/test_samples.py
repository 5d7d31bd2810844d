import numpy as np
import pytest

from lazyneuron.exporters import samples
from lazyneuron.exporters.measure import measure
from lazyneuron.exporters.progress import Silent
from lazyneuron.exporters.samples import collect_samples
from tests.exporters import graphs
from tests.exporters.graphs import D, F
from tests.exporters.test_calibration import masked  # noqa: F401 (a fixture)


def values(x: np.ndarray) -> np.ndarray:
    w = graphs.weights()
    return np.maximum(x.reshape(-1, D) @ w["up"] + w["up_bias"], 0)


def sampled(path, folder, **arrays):
    dense, ledger = graphs.read(path)
    np.savez(folder / "data.npz", **arrays)
    measured = measure(
        dense, ledger, folder / "data.npz", scratch=folder, size=4, hold_out=True, progress=Silent(), hidden=True
    )
    (key,) = ledger.blocks
    return collect_samples(measured, folder, Silent()).of(key), measured.used


def test_all_real_rows_are_kept_where_they_are_few(masked, tmp_path):  # noqa: F811
    x = np.random.default_rng(0).standard_normal((12, 5, D)).astype(np.float32)
    mask = np.ones((12, 5), np.int64)
    mask[::2, 3:] = 0
    rows, used = sampled(masked[1], tmp_path, x=x, row_mask=mask)
    np.testing.assert_allclose(rows, values(x[:used][mask[:used] != 0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bytes_at_once", [1, 1 << 20])
def test_of_many_as_many_as_asked_for_from_all_parts(tmp_path, monkeypatch, bytes_at_once):
    monkeypatch.setattr(samples, "MOST_ROWS", 50)
    monkeypatch.setattr(samples, "MOST_EXAMPLES", 20)
    monkeypatch.setattr(samples, "_MOST_BYTES", bytes_at_once)
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    x = np.random.default_rng(0).standard_normal((90, 6, D)).astype(np.float32)
    rows, used = sampled(path, tmp_path, x=x)
    assert len(rows) == pytest.approx(50, abs=2)
    expected = values(x[:used]).reshape(used, 6, F)
    places = [np.abs(expected - row).max(axis=2).min(axis=1).argmin() for row in rows]
    assert places == sorted(places)
    assert len(set(places)) <= 20
    assert places[-1] - places[0] > 0.9 * used


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights())
    x = np.random.default_rng(0).standard_normal((10, 4, D)).astype(np.float32)
    x[2, 1] = 3e38  # overflows in the product
    rows, used = sampled(path, tmp_path, x=x)
    assert len(rows) == used * 4 - 1
