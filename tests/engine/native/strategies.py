"""What Hypothesis draws for SparseDown: small, odd shapes, common ties, special values."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lazyneuron.engine import reference
from tests.engine.native.operators import Case

# Around the vector widths 4, 8 and 16, and the panel width 64.
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130])
ORDINARY = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 3.5])
# Not near the largest float: value * scale is formed in float32 and may overflow where the double does not.
SPECIAL = st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 1e-42, -1e-42, 1e-20, 1e30, 0.0, 1.0, -1.0])
# The kernels' own draws; a seed shrinks better than a thousand floats and says as much.
SEEDS = st.integers(0, 2**32 - 1)


def values(seed: int, shape: tuple[int, ...], *, ties: bool) -> np.ndarray:
    """Normal draws; rounded to quarters when ties are wanted."""
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return (np.round(drawn * 4) / 4 if ties else drawn).astype(np.float32)


def weights(seed: int, shape: tuple[int, int], dtype: type) -> np.ndarray:
    """A down projection of one of the three types."""
    rng = np.random.default_rng(seed)
    if dtype is np.int8:
        return rng.integers(-128, 128, shape).astype(np.int8)
    return rng.standard_normal(shape).astype(dtype)


@st.composite
def cases(
    draw: st.DrawFn, *, special: bool = False, activations: tuple[str, ...] = tuple(reference.ACTIVATIONS)
) -> Case:
    """Draw all inputs and attributes; with `special`, sprinkle NaN, infinities and subnormals over `pre`."""
    leading = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    neurons, columns, seed = draw(SIZES), draw(SIZES), draw(SEEDS)
    dtype = draw(st.sampled_from([np.float32, np.float16, np.int8]))
    # Ties would make a top-k of rounded transcendental values a matter of the last bit.
    exact = draw(st.sampled_from(activations)), draw(st.booleans())
    pre = values(seed, (*leading, neurons), ties=exact[1])
    if special and pre.size:
        for _ in range(draw(st.integers(1, 4))):
            pre.reshape(-1)[draw(st.integers(0, pre.size - 1))] = draw(SPECIAL)
    arrays = {"pre": pre, "down": weights(seed + 1, (neurons, columns), dtype)}
    if draw(st.booleans()):
        arrays["up_bias"] = values(seed + 2, (neurons,), ties=exact[1])
    if draw(st.booleans()):
        arrays["down_bias"] = values(seed + 3, (columns,), ties=False)
    if draw(st.booleans()):
        budgets = np.float32([0.0, -1.0, 1e-30, 0.3, 0.5, 1.0, 2.0, 1e30, np.inf])
        arrays["budget"] = np.random.default_rng(seed + 4).choice(budgets, leading).astype(np.float32)
    if dtype is np.int8 or draw(st.booleans()):
        arrays["down_scale"] = np.random.default_rng(seed + 5).uniform(0.01, 2, neurons).astype(np.float32)
    attributes = {
        "activation": exact[0],
        "top_k": draw(st.sampled_from([0, 1, (neurons + 1) // 2, neurons])),
        "threshold": draw(st.sampled_from([0.0, 0.25, 0.6])),
    }
    return Case(arrays, attributes)
