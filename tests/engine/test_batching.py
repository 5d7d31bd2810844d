"""The planner loses nothing, doubles nothing, exceeds no limit and starves no one."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.batching import Limits, Pending, plan

LIMITS = Limits(max_tokens=64, max_requests=4, window=1.0, max_padding=0.25)


def request(number: int, *, length: int = 8, batch: int = 1, key: str = "", arrived: float = 0.0, **more) -> Pending:
    return Pending(number, batch, length, key, arrived, **more)


@st.composite
def pendings(draw: Callable) -> list[Pending]:
    count = draw(st.integers(0, 30))
    return [
        Pending(
            id=number,
            batch=draw(st.integers(1, 5)),
            length=draw(st.integers(1, 40)),
            key=draw(st.sampled_from("ab")),
            arrived=draw(st.floats(0, 10)),
            deadline=draw(st.none() | st.floats(0, 20)),
        )
        for number in range(count)
    ]


limits = st.builds(
    Limits,
    max_tokens=st.integers(1, 200),
    max_requests=st.integers(1, 8),
    window=st.floats(0, 5),
    max_padding=st.floats(0, 1),
)


@given(pendings(), limits, st.floats(0, 15), st.booleans())
def test_each_request_is_batched_expired_or_left_waiting(pending, limits, now, idle):
    result = plan(pending, limits, now, idle=idle)
    told = [number for batch in result.batches for number in batch] + result.expired
    assert len(told) == len(set(told))
    assert set(told) <= {r.id for r in pending}
    assert all(result.batches)
    left = {r.id for r in pending} - set(told)
    assert (result.wake_at is None) == (not left)


@given(pendings(), limits, st.floats(0, 15), st.booleans())
def test_no_batch_exceeds_a_limit_unless_one_request_alone_does(pending, limits, now, idle):
    by_id = {r.id: r for r in pending}
    for batch in plan(pending, limits, now, idle=idle).batches:
        members = [by_id[number] for number in batch]
        assert len({m.key for m in members}) == 1
        assert len(members) <= max(1, limits.max_requests)
        if len(members) > 1:
            tokens = sum(m.batch for m in members) * max(m.length for m in members)
            assert tokens <= limits.max_tokens
            real = sum(m.batch * m.length for m in members)
            assert tokens - real <= limits.max_padding * tokens + 1e-9


@given(pendings(), limits, st.floats(0, 15), st.booleans())
def test_what_is_past_its_deadline_is_never_run_and_nothing_else_expires(pending, limits, now, idle):
    expired = set(plan(pending, limits, now, idle=idle).expired)
    assert expired == {r.id for r in pending if r.deadline is not None and r.deadline <= now}


@given(pendings(), limits, st.floats(0, 15))
def test_after_its_window_a_request_is_due(pending, limits, now):
    result = plan(pending, limits, now)
    told = {number for batch in result.batches for number in batch} | set(result.expired)
    assert all(r.id in told for r in pending if r.arrived + limits.window <= now)


@given(pendings(), limits, st.floats(0, 15))
def test_an_idle_engine_leaves_no_one_waiting(pending, limits, now):
    assert plan(pending, limits, now, idle=True).wake_at is None


@given(pendings(), limits)
def test_a_simulated_clock_serves_everyone_in_the_end(pending, limits):
    waiting, now, served = {r.id: r for r in pending}, 0.0, set()
    while waiting:
        arrived = [r for r in waiting.values() if r.arrived <= now]
        result = plan(arrived, limits, now)
        done = [number for batch in result.batches for number in batch] + result.expired
        served.update(done)
        for number in done:
            del waiting[number]
        upcoming = [r.arrived for r in waiting.values() if r.arrived > now]
        times = upcoming + ([result.wake_at] if result.wake_at is not None else [])
        assert times or not waiting
        now = min(times, default=now)
    assert served == {r.id for r in pending}


def test_a_lone_request_waits_for_company_only_while_the_engine_is_busy():
    lone = [request(1, arrived=5.0)]
    assert plan(lone, LIMITS, 5.0, idle=True).batches == [[1]]
    busy = plan(lone, LIMITS, 5.0)
    assert busy.batches == []
    assert busy.wake_at == 6.0
    assert plan(lone, LIMITS, 6.0).batches == [[1]]


def test_like_lengths_go_together():
    pending = [request(0, length=8), request(1, length=20, arrived=0.1), request(2, length=8, arrived=0.2)]
    assert plan(pending, LIMITS, 5.0).batches == [[0, 2], [1]]


def test_a_full_batch_is_due_at_once():
    assert plan([request(n) for n in range(5)], LIMITS, 0.0).batches == [[0, 1, 2, 3]]


def test_a_request_over_the_token_limit_runs_alone():
    pending = [request(0, length=100), request(1, length=100)]
    assert plan(pending, LIMITS, 0.0).batches == [[0], [1]]


def test_the_oldest_is_never_overtaken_for_ever_by_better_fitting_ones():
    pending = [request(n, length=8, arrived=0.5) for n in range(1, 9)] + [request(0, length=30, arrived=0.0)]
    assert plan(pending, LIMITS, 0.5, idle=True).batches[0] == [0]


def test_a_deadline_wakes_the_planner():
    assert plan([request(0, arrived=0.0, deadline=0.25)], LIMITS, 0.0).wake_at == 0.25
