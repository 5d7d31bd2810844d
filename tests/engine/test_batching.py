"""One model's queue loses nothing, doubles nothing, exceeds no limit and starves no one."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.batching import Limits, Pending, Queue

LIMITS = Limits(max_tokens=64, max_requests=4, window=1.0, max_padding=0.25)


def request(number: int, *, length: int = 8, batch: int = 1, key: str = "", arrived: float = 0.0, **more) -> Pending:
    return Pending(number, batch, length, key, arrived, **more)


def queue_of(pending: list[Pending], limits: Limits = LIMITS) -> Queue:
    queue = Queue(limits)
    for one in pending:
        queue.add(one)
    return queue


def batches_of(queue: Queue, now: float = 0.0) -> list[list[int]]:
    found = []
    while len(queue):
        found.append([p.id for p in queue.take(now).batch])
    return found


@st.composite
def pendings(draw: Callable) -> list[Pending]:
    count = draw(st.integers(0, 20))
    return [
        Pending(
            id=number,
            batch=draw(st.integers(1, 5)),
            length=draw(st.integers(1, 40)),
            key=draw(st.sampled_from("ab")),
            arrived=number / 10,
            deadline=draw(st.none() | st.floats(0, 20)),
            client=draw(st.sampled_from(["", "x", "y"])),
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


@given(pendings(), limits, st.floats(0, 15))
def test_each_request_is_taken_once_or_expires(pending, limits, now):
    queue = queue_of(pending, limits)
    told = []
    while len(queue):
        taken = queue.take(now)
        assert taken.batch or taken.expired
        assert all(p.deadline is None or p.deadline > now for p in taken.batch)
        assert all(p.deadline <= now for p in taken.expired)
        told += taken.batch + taken.expired
    assert sorted(p.id for p in told) == [p.id for p in pending]
    assert queue.tokens == 0


@given(pendings(), limits)
def test_no_batch_exceeds_a_limit_unless_one_request_alone_does(pending, limits):
    queue = queue_of(pending, limits)
    while len(queue):
        members = queue.take(-1.0).batch
        assert len({m.key for m in members}) == 1
        assert len(members) <= max(1, limits.max_requests)
        if len(members) > 1:
            tokens = sum(m.batch for m in members) * max(m.length for m in members)
            assert tokens <= limits.max_tokens
            real = sum(m.tokens for m in members)
            assert tokens - real <= limits.max_padding * tokens + 1e-9


@given(pendings(), limits, st.data())
def test_what_is_discarded_is_not_taken(pending, limits, data):
    queue = queue_of(pending, limits)
    gone = {p.id for p in pending if data.draw(st.booleans())}
    for one in pending:
        if one.id in gone:
            assert queue.discard(one)
            assert not queue.discard(one)
    left = [p for p in pending if p.id not in gone]
    assert queue.tokens == sum(p.tokens for p in left)
    assert sorted(n for batch in batches_of(queue, -1.0) for n in batch) == [p.id for p in left]


@given(pendings(), limits)
def test_a_batch_starts_within_its_window(pending, limits):
    queue = queue_of(pending, limits)
    if pending:
        assert queue.due_at(idle=True) == float("-inf")
        assert queue.due_at(idle=False) <= pending[0].arrived + limits.window
    else:
        assert queue.due_at(idle=True) is None


def test_the_same_request_does_not_wait_twice():
    queue = queue_of([request(0)])
    with pytest.raises(ValueError, match="request 0 waits already"):
        queue.add(request(0))


def test_an_id_may_be_used_again_once_it_is_free():
    queue = queue_of([request(0, length=3), request(1)])
    queue.discard(next(iter(queue.take(0.0).batch)))
    again = request(0, length=3)
    queue.add(again)
    assert again in queue
    assert sorted(n for batch in batches_of(queue) for n in batch) in ([0], [0, 1])


def test_few_arrivals_wait_for_no_one():
    queue = queue_of([request(0, arrived=0.0), request(1, arrived=3.0)])
    assert queue.due_at(idle=False) == 0.0


def test_many_arrivals_are_waited_for_no_longer_than_a_batch_takes_to_fill():
    queue = queue_of([request(n, length=1, arrived=n / 100) for n in range(3)])
    assert 0 < queue.due_at(idle=False) <= 0.02 + 1e-9
    slower = queue_of([request(n, length=1, arrived=n / 2) for n in range(3)])
    assert slower.due_at(idle=False) == LIMITS.window


def test_like_lengths_go_together():
    pending = [request(0, length=8), request(1, length=20), request(2, length=8)]
    assert batches_of(queue_of(pending)) == [[0, 2], [1]]


def test_a_full_batch_is_due_at_once():
    queue = queue_of([request(n) for n in range(5)])
    assert queue.full
    assert queue.due_at(idle=False) == float("-inf")
    assert queue.take(0.0).batch[0].id == 0


def test_a_slow_model_gets_small_batches():
    queue = queue_of([request(n) for n in range(4)], Limits(max_tokens=64, max_seconds=0.5))
    queue.tokens_per_second = 32.0
    assert queue.most_tokens == 16
    assert batches_of(queue, -10.0) == [[0, 1], [2, 3]]


def test_what_cannot_be_done_in_time_is_not_begun():
    pending = [request(n, deadline=deadline) for n, deadline in enumerate([1.0, 3.0, 9.0])]
    queue = queue_of(pending, Limits(max_tokens=64, max_seconds=10))
    queue.tokens_per_second = 12.0  # what waits takes two seconds
    taken = queue.take(0.0)
    assert [p.id for p in taken.expired] == [0]
    assert [p.id for p in taken.batch] == [1, 2]


def test_a_request_over_the_token_limit_runs_alone():
    assert batches_of(queue_of([request(0, length=100), request(1, length=100)])) == [[0], [1]]


def test_a_request_that_does_not_fit_lets_smaller_ones_of_its_length_in():
    pending = [request(0, batch=4), request(1, batch=6), request(2, batch=4)]
    assert batches_of(queue_of(pending)) == [[0, 2], [1]]


def test_a_client_with_many_requests_does_not_keep_another_waiting():
    crowd = [request(n, length=64, client="crowd") for n in range(1000)]
    queue = queue_of([*crowd, request(1000, length=64, client="lone")])
    assert 1000 in [n for batch in batches_of(queue)[:2] for n in batch]


@given(st.integers(2, 6), st.integers(1, 5), st.integers(1, 9))
def test_clients_that_always_wait_get_equal_tokens(clients, first_size, turns):
    """Whatever the sizes of their requests."""
    queue, number = Queue(Limits(max_tokens=1, max_requests=1)), 0
    served = dict.fromkeys(range(clients), 0)
    sizes = {client: first_size + client for client in served}
    for client in served:
        queue.add(request(number := number + 1, length=sizes[client], client=str(client)))
    for _ in range(turns * clients * 10):
        (done,) = queue.take(0.0).batch
        client = int(done.client)
        served[client] += done.tokens
        queue.add(request(number := number + 1, length=sizes[client], client=done.client))
        assert max(served.values()) - min(served.values()) <= 3 * max(sizes.values())


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 60))
def test_an_odd_length_is_not_overtaken_for_ever_by_better_fitting_ones(lengths, odd):
    """New clients keep coming, each with a request that fits the others better."""
    queue = Queue(LIMITS)
    queue.add(request(0, length=64 + odd, client="odd"))
    for turn in range(200):
        for place, length in enumerate(lengths[:3]):
            queue.add(request(1 + turn * 3 + place, length=length, client=f"{turn}-{place}"))
        if any(p.id == 0 for p in queue.take(0.0).batch):
            break
    assert turn < 3


def test_heaps_do_not_grow_with_what_has_left():
    queue = queue_of([request(0, length=50, deadline=1e9)])
    for number in range(1, 3000):
        one = request(number, length=1 + number % 30, deadline=1e6 + number)
        queue.add(one)
        queue.discard(one)
    assert len(queue._turns) < 200
    assert len(queue._deadlines) < 200
    assert sum(len(group.heaps) for group in queue._groups.values()) == 1


def test_work_for_a_batch_does_not_grow_with_the_queue():
    """Counted, not timed: how many requests are looked at for one batch."""
    looked = {}
    for waiting in (500, 5000):
        queue = queue_of([request(n, length=1 + n % 40, client=str(n % 7)) for n in range(waiting)])
        queue._waiting = counted = _Counting(queue._waiting)
        queue.take(0.0)
        looked[waiting] = counted.looks
    assert looked[5000] <= looked[500] + 20


class _Counting(dict):
    looks = 0

    def get(self, *args):
        self.looks += 1
        return super().get(*args)


def test_what_is_ahead_of_a_client_is_its_fair_share():
    queue = queue_of([request(n, length=10, client="crowd") for n in range(100)])
    assert queue.ahead_of("crowd", 10) == 1000
    assert queue.ahead_of("lone", 10) == 10
    assert queue.ahead_of("lone", 5000) == 1000
