"""The largest batch that a GPU's memory holds, measured on devices made of a few lines."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.devices.memory import Bound, RanOutError, measure
from lazyneuron.engine.errors import ArtifactError

WEIGHTS = 1_000_000


class Arena:
    """A device whose session keeps what its largest batch took, and has no more than `room`."""

    def __init__(self, taken: Callable[[int], int], room: int) -> None:
        self.taken, self.room = taken, room
        self.held = WEIGHTS
        self.ran: list[int] = []

    def run(self, tokens: int) -> None:
        wanted = WEIGHTS + self.taken(tokens)
        if wanted > self.room:
            raise RanOutError(f"Failed to allocate memory for requested buffer of size {wanted}")
        self.ran.append(tokens)
        self.held = max(self.held, wanted)

    def measure(self, most: int = 8192) -> Bound:
        return measure(self.run, lambda: self.held, self.room, most)


def test_where_all_fits_the_settings_bound_the_batch() -> None:
    arena = Arena(lambda tokens: 1000 * tokens, room=10**9)
    bound = arena.measure()
    assert arena.ran == [64, 128, 256, 512, 1024, 2048, 4096, 8192]
    assert (bound.max_tokens, bound.bytes_per_token, bound.model_bytes) == (8192, 1000, WEIGHTS)


def test_a_bound_that_is_no_power_of_two() -> None:
    assert Arena(lambda tokens: tokens, room=10**9).measure(most=1000).max_tokens == 1000
    assert Arena(lambda tokens: tokens, room=10**9).measure(most=5).max_tokens == 5


def test_where_less_fits_it_is_worked_out_with_caution() -> None:
    bound = Arena(lambda tokens: 1000 * tokens, room=WEIGHTS + 1_000_000).measure()
    # 256 tokens take 256,000; the next 256 may take 512,000 of the 744,000 that are left; the next 512, 1,024,000.
    assert bound.max_tokens == 512 + (1_000_000 - 512_000) // 2000
    assert [point.tokens for point in bound.points] == [64, 128, 256, 512]


@given(
    st.integers(1, 5000),
    st.integers(0, 10),
    st.integers(WEIGHTS + 10**6, 10**9),
    st.integers(64, 20_000),
)
def test_what_it_says_fits_does_fit_though_memory_grows_with_the_square(
    linear: int, square: int, room: int, most: int
) -> None:
    arena = Arena(lambda tokens: linear * tokens + square * tokens * tokens // 100, room)
    try:
        bound = arena.measure(most)
    except ArtifactError:
        assert WEIGHTS + arena.taken(64) > room
        return
    assert WEIGHTS + arena.taken(bound.max_tokens) <= room
    assert 64 <= bound.max_tokens <= most
    assert (
        bound.max_tokens == most or 4 * bound.max_tokens >= most or WEIGHTS + arena.taken(8 * bound.max_tokens) > room
    )


def test_running_out_all_the_same_leaves_the_last_that_ran() -> None:
    arena = Arena(lambda tokens: 100 * tokens if tokens <= 500 else 10**9, room=2 * 10**6)
    bound = arena.measure()
    assert bound.max_tokens == 256
    assert [point.tokens for point in bound.points] == [64, 128, 256]


def test_a_model_for_which_no_batch_fits() -> None:
    arena = Arena(lambda tokens: 10_000 * tokens, room=WEIGHTS + 100)
    with pytest.raises(ArtifactError, match=r"a batch of 64 tokens does not fit .* beside the model's 1,000,000 bytes"):
        arena.measure()


def test_memory_that_somebody_else_has_taken_meanwhile() -> None:
    held = iter([10, 2000])
    bound = measure(lambda _: None, lambda: next(held), 1000, 8192)
    assert bound.max_tokens == 64
