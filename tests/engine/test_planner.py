"""The planner of a whole server, driven by a simulated clock: nothing lost, doubled, late or starved."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from lazyneuron.engine.batching import Limits, Pending
from lazyneuron.engine.fairness import Turns
from lazyneuron.engine.planner import Lane, Planner, Run
from lazyneuron.engine.speed import Speed

LANES = [(Limits(64, 4, 0.5, 0.25), 1), (Limits(32, 8, 0.1, 0.5), 2), (Limits(16, 1, 0.0, 0.0), 3)]


class ServerMachine(RuleBasedStateMachine):
    """Threads that take, prepare and run batches in any order, while requests come and go."""

    requests = Bundle("requests")
    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.planner = Planner()
        self.lanes = [self.planner.open(*lane) for lane in LANES]
        self.ids = itertools.count()
        self.now = 0.0
        self.waiting: dict[int, Pending] = {}
        self.told: dict[int, str] = {}
        self.running: list[Run] = []
        self.ahead: Run | None = None

    @rule(
        target=requests,
        lane=st.integers(0, len(LANES) - 1),
        batch=st.integers(1, 5),
        length=st.integers(1, 40),
        key=st.sampled_from("ab"),
        client=st.sampled_from("xyz"),
        wait=st.none() | st.floats(0, 3),
    )
    def arrive(self, lane, batch, length, key, client, wait):
        deadline = None if wait is None else self.now + wait
        pending = Pending(next(self.ids), batch, length, key, self.now, deadline, client)
        self.planner.add(self.lanes[lane], pending)
        self.waiting[pending.id] = pending
        return lane, pending

    @rule(request=consumes(requests))
    def give_up(self, request):
        lane, pending = request
        if self.lanes[lane].queue.discard(pending):
            self.tell(pending, "given up")
        else:
            assert pending.id in self.told

    @rule(seconds=st.floats(0, 2))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(target=runs)
    def take(self):
        run = self.planner.next(self.now)
        self.collect_expired()
        if run is None:
            return st.nothing() if False else None
        self.check(run)
        self.running.append(run)
        return run

    @precondition(lambda self: self.ahead is None)
    @rule()
    def prepare(self):
        run = self.planner.ahead(self.now)
        self.collect_expired()
        if run is not None:
            self.check(run)
            self.ahead = run

    @precondition(lambda self: self.ahead is not None)
    @rule()
    def start(self):
        assert self.planner.next(self.now) is None  # what was prepared comes first
        if self.planner.start(self.ahead, self.now):
            self.running.append(self.ahead)
            self.ahead = None
        else:
            assert self.running

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 5))
    def finish(self, which):
        self.planner.finish(self.running.pop(which % len(self.running)), self.now)

    @invariant()
    def no_more_runs_than_may(self):
        counts = [sum(run.lane is lane for run in self.running) for lane in self.lanes]
        assert [lane.running for lane in self.lanes] == counts
        assert all(lane.running <= lane.concurrency for lane in self.lanes)
        assert sum(lane.running / lane.concurrency for lane in self.lanes) <= 1 + 1e-9

    @invariant()
    def the_engine_never_stands_idle_beside_work(self):
        if not self.running and self.ahead is None and self.waiting:
            assert any((due := lane.queue.due_at(idle=True)) is not None and due <= self.now for lane in self.lanes)

    def check(self, run: Run) -> None:
        for pending in run.batch:
            assert pending.deadline is None or pending.deadline > self.now
            self.tell(pending, "taken")

    def collect_expired(self) -> None:
        for lane, pending in self.planner.take_expired():
            assert pending.deadline is not None
            # A batch that would end too late is not begun, nor prepared to begin after what runs.
            speed, begins = lane.queue.tokens_per_second, max(self.now, lane.until)
            assert pending.deadline <= begins + (1.25 * lane.queue.most_tokens / speed if speed else 0.0)
            self.tell(pending, "expired")

    def tell(self, pending: Pending, what: str) -> None:
        assert pending.id not in self.told, f"{pending.id} was {self.told[pending.id]}, and now is {what}"
        self.told[pending.id] = what
        assert self.waiting.pop(pending.id) is pending

    def teardown(self) -> None:
        """Run everything that is left: each request has been told once."""
        for _ in range(10 * len(self.waiting) + 20):
            if self.ahead is not None and self.planner.start(self.ahead, self.now):
                self.running.append(self.ahead)
                self.ahead = None
            while (run := self.planner.next(self.now)) is not None:
                self.check(run)
                self.running.append(run)
            self.collect_expired()
            if not self.running and not self.waiting:
                break
            assert self.running or self.planner.wake_at(self.now) is not None
            self.now = self.now + 0.01 if self.running else self.planner.wake_at(self.now)
            if self.running:
                self.planner.finish(self.running.pop(0), self.now)
        assert not self.waiting
        assert not self.planner.waiting
        for lane in self.lanes:
            assert not self.planner.busy(lane)
            assert lane.queue.tokens == 0
            self.planner.close(lane)


TestServer = ServerMachine.TestCase
TestServer.settings = settings(max_examples=60, stateful_step_count=50)


def lone(planner: Planner, lane: Lane, number: int, now: float, **more) -> Pending:
    pending = Pending(number, 1, 8, "", now, **more)
    planner.add(lane, pending)
    return pending


def test_models_that_are_always_busy_get_equal_time():
    """Whatever a batch of each takes."""
    planner, ids = Planner(), itertools.count()
    taking = {planner.open(Limits(8, 1), 1): seconds for seconds in (0.01, 0.05, 0.3)}
    used = dict.fromkeys(taking, 0.0)
    now = 0.0
    while now < 60:
        for lane in taking:
            while len(lane.queue) < 3:
                lone(planner, lane, next(ids), now)
        run = planner.next(now)
        now += taking[run.lane]
        used[run.lane] += taking[run.lane]
        planner.finish(run, now)
    assert max(used.values()) - min(used.values()) <= 2 * max(taking.values())


def test_a_model_that_comes_back_has_no_claim_for_the_time_that_it_was_away():
    planner, ids = Planner(), itertools.count()
    busy, away = planner.open(Limits(8, 1), 1), planner.open(Limits(8, 1), 1)
    now, order = 0.0, []
    for turn in range(60):
        lone(planner, busy, next(ids), now)
        if turn >= 40:
            lone(planner, away, next(ids), now)
        run = planner.next(now)
        order.append(run.lane)
        now += 0.1
        planner.finish(run, now)
    assert order[:40] == [busy] * 40
    assert order[40:].count(away) == 10


def test_whoever_s_turn_it_is_waits_for_room_and_is_not_passed_by_smaller_ones():
    planner, ids = Planner(), itertools.count()
    small, large = planner.open(Limits(8, 1), 2), planner.open(Limits(8, 1), 1)
    for _ in range(4):
        lone(planner, small, next(ids), 0.0)
    first, second = planner.next(0.0), planner.next(0.0)
    assert first.lane is second.lane is small
    lone(planner, large, next(ids), 0.1)
    planner.finish(first, 0.2)
    assert planner.next(0.2) is None  # half the machine is free, and the large one needs all of it
    planner.finish(second, 0.3)
    assert planner.next(0.3).lane is large


def test_only_a_full_batch_is_prepared_while_another_runs():
    planner = Planner()
    lane = planner.open(Limits(64, 4), 1)
    lone(planner, lane, 0, 0.0)
    run = planner.next(0.0)
    for number in range(1, 4):
        lone(planner, lane, number, 0.1)
    assert planner.ahead(0.1) is None
    lone(planner, lane, 4, 0.1)
    ahead = planner.ahead(0.1)
    assert [p.id for p in ahead.batch] == [1, 2, 3, 4]
    assert planner.ahead(0.1) is None
    assert not planner.start(ahead, 0.1)
    planner.finish(run, 0.2)
    assert planner.start(ahead, 0.2)
    with pytest.raises(ValueError, match="does not wait to start"):
        planner.start(ahead, 0.2)


def test_a_lone_request_wakes_no_one_for_its_window():
    planner = Planner()
    lane = planner.open(Limits(64, 4, window=5.0), 2)
    lone(planner, lane, 0, 0.0)
    assert planner.next(0.0) is not None
    lone(planner, lane, 1, 9.0)  # the first still runs; arrivals are far between
    assert planner.next(9.0) is not None


def test_a_short_request_is_alone_where_none_was_met_for_a_while():
    planner = Planner()
    lane, other = planner.open(Limits(), 1), planner.open(Limits(), 1)
    ids = itertools.count()

    def served(now, *, seconds=0.001, tokens=2, company=False):
        pending = Pending(next(ids), 1, tokens, "", now)
        alone = planner.alone(lane, pending)
        if alone is None:
            planner.add(lane, pending)
        run = alone or planner.next(now)
        assert run.batch == [pending]
        if company:
            planner.add(lane, Pending(next(ids), 1, tokens, "", now))
            assert planner.alone(lane, Pending(next(ids), 1, tokens, "", now)) is None
        planner.finish(run, now + seconds)
        if company:
            planner.finish(planner.next(now + seconds), now + 2 * seconds)
        return alone is not None

    assert not served(0.0)  # nobody knows yet how long it takes
    assert served(1.0)
    assert not served(2.0, tokens=20)  # ten times as long, at most
    assert served(3.0, company=True)
    assert not served(3.01)
    assert served(4.0)
    planner.add(other, Pending(next(ids), 1, 1, "", 4.5))
    assert planner.alone(lane, Pending(next(ids), 1, 2, "", 4.5)) is None
    planner.finish(planner.next(4.6), 4.7)
    assert served(5.0, seconds=0.5)
    assert not served(6.0)


def test_speed_is_that_of_a_backlog():
    speed = Speed()
    speed.finished(1, 0.0, 1.0, backlog=False)
    assert speed.tokens_per_second == 0.0
    speed.finished(100, 1.0, 2.0, backlog=True)
    assert speed.tokens_per_second == 100.0
    for end in range(3, 60):
        speed.finished(300, 1.0, float(end), backlog=True)
    assert speed.tokens_per_second == pytest.approx(300, rel=0.01)


def test_a_break_in_the_work_does_not_count_as_slowness():
    speed = Speed()
    speed.finished(100, 0.0, 1.0, backlog=True)
    speed.finished(100, 100.0, 101.0, backlog=True)
    assert speed.tokens_per_second == 100.0


def test_a_model_that_was_slow_once_is_not_held_to_be_slow_for_ever():
    speed = Speed()
    speed.finished(100, 0.0, 50.0, backlog=True)
    assert speed.tokens_per_second == 2.0
    for turn in range(60, 90):
        speed.finished(10, turn, turn + 0.1, backlog=False)  # it is sent little, so nothing waits
    assert speed.tokens_per_second > 50.0
    known = speed.tokens_per_second
    speed.finished(1, 100.0, 101.0, backlog=False)
    assert speed.tokens_per_second == known


def test_speed_counts_batches_that_run_at_the_same_time_together():
    speed = Speed()
    for end in range(1, 50):
        speed.finished(50, end - 1.0, float(end), backlog=True)
        speed.finished(50, end - 1.0, float(end), backlog=True)
    assert speed.tokens_per_second == pytest.approx(100, rel=0.01)


def test_turns_charge_what_a_run_took_and_not_what_was_expected():
    turns = Turns()
    turns.join("a", 1.0)
    turns.join("b", 1.0)
    turns.begin("a", 100.0)
    turns.end("a", 100.0, 1.0)
    turns.begin("b", 0.0)
    turns.end("b", 0.0, 2.0)
    assert turns.first(["a", "b"]) == "a"
