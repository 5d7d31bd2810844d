import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from lazyneuron.exporters.batches import batches
from lazyneuron.exporters.calibration import BlockCounts, calibrate, count_outputs, density
from lazyneuron.exporters.sessions import open_model
from tests.exporters import graphs
from tests.exporters.graphs import OUT, D, F


@given(st.lists(st.lists(st.integers(0, 17), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(0, 20))
def test_density_is_numpys(parts, top_k):
    counts = BlockCounts.empty(3, 17)
    for part in parts:
        counts.add(np.array(part), np.zeros(17, np.int64))
    rows = np.concatenate(parts)
    capped = np.minimum(rows, top_k) if top_k else rows
    found = density(counts, top_k)
    assert found.rows == len(rows)
    assert found.mean == pytest.approx(capped.mean() / 17, abs=1e-12)
    for percent in (50, 90, 95, 99):
        expected = np.percentile(capped, percent, method="inverted_cdf") / 17
        assert getattr(found, f"p{percent}") == pytest.approx(expected, abs=1e-12)


def test_density_over_no_rows_is_zero():
    found = density(BlockCounts.empty(3, 4))
    assert (found.rows, found.mean, found.p99, found.never_active) == (0, 0.0, 0.0, 1.0)


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A block whose rows have a mask, and the same with its rows flattened."""
    folder = tmp_path_factory.mktemp("masked")
    inputs = {
        "x": (TensorProto.FLOAT, ["batch", "length", D]),
        "row_mask": (TensorProto.INT64, ["batch", "length"]),
    }
    flat = [
        graphs.node("Reshape", "x to_rows", "x2"),
        graphs.node("MatMul", "x2 up", "product"),
        graphs.node("Add", "product up_bias", "pre"),
        graphs.node("Relu", "pre", "h"),
        graphs.node("MatMul", "h down", "second"),
        graphs.node("Add", "second down_bias", "y2"),
        graphs.node("Shape", "row_mask", "leading"),
        graphs.node("Concat", "leading width", "target", axis=0),
        graphs.node("Reshape", "y2 target", "y"),
    ]
    use = graphs.node("ReduceMax", "row_mask", "used", keepdims=0)
    outputs = {"y": (TensorProto.FLOAT, ["batch", "length", OUT]), "used": (TensorProto.INT64, [])}
    constants = graphs.weights() | {"to_rows": np.array([-1, D]), "width": np.array([OUT])}
    return [
        graphs.save(folder / f"{i}.onnx", [*nodes, use], constants, inputs=inputs, outputs=outputs)
        for i, nodes in enumerate((graphs.plain_nodes(), flat))
    ]


@pytest.mark.parametrize("flattened", [False, True])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_counts_are_brute_force_over_real_rows(masked, tmp_path, flattened, size):
    dense, ledger = graphs.read(masked[flattened])
    (block,) = ledger.blocks.values()
    assert (block.rows, block.flattened) == (("batch", "length"), flattened)
    rng = np.random.default_rng(3)
    examples = []
    for length in (1, 5, 2, 7, 7, 3, 4):
        mask = np.ones(length, np.int64)
        mask[length // 2 : length // 2 + 1] = length < 3  # a hole, so that a mask is no mere length
        examples.append({"x": rng.standard_normal((length, D)).astype(np.float32), "row_mask": mask})
    session = open_model(count_outputs(dense.model, [block], dense.inputs), tmp_path / "count.onnx", sparse=False)
    (counts,) = calibrate(session, [block], dense.inputs, batches(examples, dense.inputs, size))

    w = graphs.weights()
    rows = np.concatenate([e["x"][e["row_mask"] != 0] for e in examples])
    active = rows @ w["up"] + w["up_bias"] > 0
    assert counts.rows == len(rows)
    np.testing.assert_array_equal(counts.histogram, np.bincount(active.sum(1), minlength=F + 1))
    np.testing.assert_array_equal(counts.fired, active.sum(0))
    assert counts.channels.rows == len(rows)
    np.testing.assert_allclose(counts.channels.total, rows.sum(0, dtype=np.float64), atol=1e-9)
    np.testing.assert_allclose(counts.channels.squares, np.square(rows, dtype=np.float64).sum(0), rtol=1e-12)
    _check_places(counts, [e["row_mask"].sum() for e in examples], active)
    _check_unions(counts, [batch_of(examples, active, start, size) for start in range(0, len(examples), size)])


def batch_of(examples, active, start, size):
    """Return what fired in the real rows of a batch's examples."""
    lengths = [int(e["row_mask"].sum()) for e in examples]
    return active[sum(lengths[:start]) : sum(lengths[: start + size])]


def _check_places(counts, lengths, active):
    """Check what was counted by example and by position."""
    parts = np.split(active.sum(1), np.cumsum(lengths)[:-1])
    assert counts.examples.count == sum(n > 0 for n in lengths)
    assert counts.examples.active_squared == sum(int(part.sum()) ** 2 for part in parts)
    assert counts.examples.product == sum(int(part.sum()) * len(part) for part in parts)
    for group, places in enumerate((slice(0, 1), slice(1, 4), slice(4, 16))):
        assert counts.positions.rows[group] == sum(len(part[places]) for part in parts)
        assert counts.positions.active[group] == sum(part[places].sum() for part in parts)


def _check_unions(counts, batches):
    """Check the unions of 8 rows; they stand apart by as many rows as there are groups."""
    groups = active = 0
    for rows in batches:
        n = len(rows) // 8
        groups += n
        active += sum(int(rows[g : 8 * n : n].any(axis=0).sum()) for g in range(n))
    assert (counts.unions.groups[0], counts.unions.active[0]) == (groups, active)


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("length", [1, 7, 8, 31, 32, 75])
def test_unions_hold_whole_groups_of_rows(tmp_path, length, opset):
    path = graphs.save(tmp_path / "m.onnx", graphs.plain_nodes(), graphs.weights(), opset=opset)
    dense, ledger = graphs.read(path)
    (block,) = ledger.blocks.values()
    x = np.random.default_rng(length).standard_normal((1, length, D)).astype(np.float32)
    session = open_model(count_outputs(dense.model, [block], dense.inputs), tmp_path / "count.onnx", sparse=False)
    (counts,) = calibrate(session, [block], dense.inputs, [{"x": x}])
    w = graphs.weights()
    active = x[0] @ w["up"] + w["up_bias"] > 0
    _check_unions(counts, [active])
    assert counts.unions.groups.tolist() == [length // 8, length // 8 // 4]
    if length == 32:
        assert counts.unions.shares(F)[32] == active.any(axis=0).mean()


def test_merged_counts_are_those_of_all_rows(masked, tmp_path):
    dense, ledger = graphs.read(masked[0])
    blocks = list(ledger.blocks.values())
    session = open_model(count_outputs(dense.model, blocks, dense.inputs), tmp_path / "count.onnx", sparse=False)
    rng = np.random.default_rng(5)
    feeds = [
        {"x": rng.standard_normal((4, 9, D)).astype(np.float32), "row_mask": np.ones((4, 9), np.int64)}
        for _ in range(3)
    ]
    (whole,) = calibrate(session, blocks, dense.inputs, feeds)
    (part,), (rest,) = (calibrate(session, blocks, dense.inputs, some) for some in (feeds[:1], feeds[1:]))
    part.merge(rest)
    assert (part.rows, part.examples, density(part)) == (whole.rows, whole.examples, density(whole))
    for kind in ("positions", "unions"):
        for name in getattr(part, kind).__slots__:
            np.testing.assert_array_equal(getattr(getattr(part, kind), name), getattr(getattr(whole, kind), name))
    np.testing.assert_allclose(part.channels.squares, whole.channels.squares)
