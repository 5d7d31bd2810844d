"""A batch's counts are those of its requests one by one, and of its padding, added up row by row."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.accounting import BlockCounts, block_counts
from lazyneuron.engine.artifact import BlockFlops, BlockPlan, Density, InputSpec, OutputSpec
from lazyneuron.engine.collate import join
from lazyneuron.engine.counting import Counting
from lazyneuron.engine.requests import RequestMaker
from tests.support.artifacts import manifest_of

TOKENS, FRAMES, EXAMPLES = ("batch", "sequence"), ("batch", "frames"), ("batch",)


def plan(name, rows, *, mode="exact", screened=False):
    return BlockPlan(
        name=name,
        operator="SparseMLP" if screened else "SparseDown",
        mode=mode,
        activation="relu",
        d_model=4,
        d_ff=50,
        d_out=4,
        density=Density(rows=1, mean=0, p50=0, p90=0, p95=0, p99=0, never_active=0),
        flops=BlockFlops(dense_per_row=800, per_row=30, per_candidate=8, per_active=8),
        rows=rows,
        active_output=f"{name}.active",
        candidates_output=f"{name}.candidates" if screened else None,
    )


BLOCKS = (
    plan("frames", FRAMES),
    plan("first", TOKENS, mode="certified", screened=True),
    plan("pooled", EXAMPLES),
    plan("second", TOKENS, mode="predictor", screened=True),
    plan("third", TOKENS),
)
MANIFEST = manifest_of(
    task="embedding",
    inputs=(
        InputSpec(name="x", dtype="float32", shape=TOKENS, role="data", pad=0.0),
        InputSpec(name="mask", dtype="int64", shape=TOKENS, role="mask"),
        InputSpec(name="heard", dtype="float32", shape=FRAMES, role="data", pad=0.0),
    ),
    outputs=(OutputSpec(name="y", dtype="float32", shape=EXAMPLES),),
    blocks=BLOCKS,
)


def by_hand(block, requests, values):
    """Return a block's rows, active neurons and candidates over each request's real rows, and over padding."""
    active, candidates = values[block.active_output], values.get(block.candidates_output)
    axes = {FRAMES: "frames", TOKENS: "sequence", EXAMPLES: None}[block.rows]
    own, first, padding = [], 0, [0, 0, 0, 0]
    for request in requests:
        sums = [0, 0, 0]
        for example in range(request.batch):
            places = [()] if axes is None else [(i,) for i in range(active.shape[1])]
            for place in places:
                at = (first + example, *place)
                within = axes is None or place[0] < request.axes[axes]
                real = within and (axes != "sequence" or request.inputs["mask"][(example, *place)] != 0)
                tested = block.d_ff if candidates is None else int(candidates[at])
                if real:
                    sums = [sums[0] + 1, sums[1] + int(active[at]), sums[2] + tested]
                elif axes == "sequence":
                    computed = block.mode == "predictor" or tested > 0
                    padding = [p + v for p, v in zip(padding, [1, computed, int(active[at]), tested], strict=True)]
        own.append(block_counts(block, rows=sums[0], active=sums[1], candidates=sums[2]))
        first += request.batch
    rows, computed, used, tested = padding
    wasted = block_counts(block, rows=computed, active=used, candidates=tested)
    return own, BlockCounts(
        block.name, rows, wasted.neurons, used, tested, rows * block.flops.dense_per_row, wasted.flops_executed
    )


@given(
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
    masked=st.booleans(),
)
def test_each_request_and_the_padding(shapes, seed, masked):
    rng = np.random.default_rng(seed)
    requests = []
    for batch, length, frames in shapes:
        inputs = {"x": np.ones((batch, length), np.float32), "heard": np.ones((batch, frames), np.float32)}
        if masked:
            inputs["mask"] = rng.integers(0, 2, (batch, length))
        requests.append(RequestMaker(MANIFEST).make(inputs, 1.0))
    feed = join(MANIFEST, requests)
    values = {}
    for block in BLOCKS:
        like = {FRAMES: feed["heard"].shape, TOKENS: feed["x"].shape, EXAMPLES: feed["x"].shape[:1]}[block.rows]
        values[block.active_output] = rng.integers(0, 3, like).astype(np.int32)
        if block.candidates_output is not None:
            values[block.candidates_output] = rng.integers(0, 3, like).astype(np.int32)
    counts = Counting(MANIFEST).of(requests, feed, values)
    for place, block in enumerate(BLOCKS):
        own, padding = by_hand(block, requests, values)
        assert [sparsity.blocks[place] for sparsity in counts.requests] == own
        assert counts.padding.blocks[place] == padding
        assert counts.total.blocks[place].active == sum(one.active for one in own)
        rows = counts.rows[place]
        real = np.ones(rows.active.shape, bool) if rows.real is None else rows.real != 0
        assert (int(real.sum()), int(rows.active[real].sum())) == (
            sum(one.rows for one in own),
            sum(one.active for one in own),
        )
