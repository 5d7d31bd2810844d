"""Three times what a model can do, with the real planner, admission and budget control, and a simulated clock."""

import heapq
import random
from dataclasses import dataclass, field

import pytest

from lazyneuron.engine.batching import Limits, Pending
from lazyneuron.engine.errors import DeadlineExceededError, QueueFullError
from lazyneuron.engine.planner import Planner, Run
from lazyneuron.server.admission import Admission, Outlook
from lazyneuron.server.budget import BudgetControl
from lazyneuron.server.config import BudgetConfig, ClientsConfig, QueueConfig

LIMITS = Limits(max_tokens=1024, max_requests=32)
FIXED, EACH = 0.004, 1e-4
"""What a batch takes in the simulated engine: seconds, and seconds for each token with padding."""
SECONDS = 30.0


@dataclass
class Outcome:
    waits: list[float] = field(default_factory=list)
    """From arrival to answer, of what was answered in time."""
    good_tokens: int = 0
    late: int = 0
    """Answered after the deadline: work for nothing."""
    expired: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    hints: list[float] = field(default_factory=list)
    by_client: dict[str, list[float]] = field(default_factory=dict)
    budgets: list[float] = field(default_factory=list)

    def p99(self) -> float:
        return sorted(self.waits)[int(len(self.waits) * 0.99)]


def simulate(
    tokens_per_second: float,
    *,
    stall: float = 0.0,
    queue: QueueConfig,
    patience: float | None = None,
    crowd: float = 0.0,
    budget: BudgetConfig | None = None,
    each: float = EACH,
    jitter: float = 0.0,
) -> Outcome:
    """Open loop: requests arrive by a Poisson process, whatever becomes of them; none is sent again.

    Parameters
    ----------
    tokens_per_second
        What is asked for.
    patience
        Each request's deadline, seconds after its arrival.
    crowd
        The share of the requests that one client sends; the others come from ten.
    stall
        How long the engine stands still once, after five seconds.
    budget
        With it the time for each token falls as the budget does.
    each
        Seconds for each token with padding.
    jitter
        By what share a batch's time differs from that, at most.
    """
    chance = random.Random(7)
    planner, outcome = Planner(), Outcome()
    lane = planner.open(LIMITS, 1)
    admission = Admission(queue, ClientsConfig(queue_share=1.0))
    control = BudgetControl(budget or BudgetConfig())
    sizes = [8, 16, 32, 64, 128]
    rate = tokens_per_second / (sum(sizes) / len(sizes))
    events: list[tuple[float, int, object]] = [(chance.expovariate(rate), 0, "arrival")]
    numbers = iter(range(1, 10**9))
    stalled: list[float] = []
    prepared: list[Run] = []

    def expire() -> None:
        outcome.expired += len(expired := planner.take_expired())
        for _, pending in expired:
            leave(pending)

    def start(now: float) -> None:
        """Run what may run, as the server's workers do: what was prepared first; then prepare one more."""
        run = planner.next(now)
        if prepared and planner.start(prepared[0], now):
            run = prepared.pop()
        expire()
        if run is not None:
            begin(run, now)
        if not prepared and (ahead := planner.ahead(now)) is not None:
            prepared.append(ahead)
        expire()

    def begin(run: Run, now: float) -> None:
        for pending in run.batch:
            admission.release(pending.tokens, pending.client)
        present = control.update(admission.pressure_at(lane.queue.tokens_per_second, lane.queue.most_tokens))
        outcome.budgets.append(present)
        padded = sum(p.batch for p in run.batch) * max(p.length for p in run.batch)
        seconds = FIXED + each * padded * present * (1 + jitter * chance.uniform(-1, 1))
        if stall and now > 5 and not stalled:
            stalled.append(now)
            seconds += stall
        heapq.heappush(events, (now + seconds, next(numbers), run))

    def leave(pending: Pending) -> None:
        admission.release(pending.tokens, pending.client)
        admission.answered(pending.client)

    def arrive(now: float) -> None:
        heapq.heappush(events, (now + chance.expovariate(rate), next(numbers), "arrival"))
        client = "crowd" if chance.random() < crowd else f"client {chance.randrange(10)}"
        deadline = None if patience is None else now + patience
        pending = Pending(next(numbers), 1, chance.choice(sizes), "", now, deadline, client)
        ahead = lane.queue.ahead_of(client, pending.tokens)
        try:
            admission.admit(
                pending.tokens,
                Outlook(
                    ahead,
                    lane.queue.tokens_per_second,
                    lane.queue.most_tokens,
                    patience,
                    planner.seconds_taken(lane, now),
                ),
                client,
            )
        except (QueueFullError, DeadlineExceededError) as error:
            outcome.refused[type(error).__name__] = outcome.refused.get(type(error).__name__, 0) + 1
            outcome.hints += [error.retry_after] if isinstance(error, QueueFullError) else []
            return
        planner.add(lane, pending)

    def finish(run: Run, now: float) -> None:
        planner.finish(run, now)
        for pending in run.batch:
            admission.answered(pending.client)
            if pending.deadline is not None and now > pending.deadline:
                outcome.late += 1
                continue
            outcome.waits.append(now - pending.arrived)
            outcome.by_client.setdefault(pending.client, []).append(now - pending.arrived)
            outcome.good_tokens += pending.tokens

    while events and events[0][0] < SECONDS:
        now, _, what = heapq.heappop(events)
        if isinstance(what, Run):
            finish(what, now)
        else:
            arrive(now)
        start(now)
    still = [pending for run in prepared for pending in run.batch]
    assert admission.requests == len(lane.queue) + len(still)
    assert admission.tokens == lane.queue.tokens + sum(pending.tokens for pending in still)
    return outcome


@pytest.fixture(scope="module")
def capacity() -> float:
    """Tokens per second with more to do than can be done, and a queue in which nothing is refused."""
    endless = QueueConfig(max_tokens=10**9, max_requests=10**9, max_wait_seconds=1e6)
    return simulate(30_000, queue=endless).good_tokens / SECONDS


@pytest.mark.parametrize(("crowd", "times"), [(1.0, 1.3), (0.0, 2.0)])
def test_three_times_the_load_keeps_goodput_and_bounds_the_wait(capacity: float, crowd: float, times: float) -> None:
    """From one client, and from eleven: fair shares make the wait less even."""
    outcome = simulate(3 * capacity, queue=QueueConfig(max_wait_seconds=0.5), crowd=crowd)
    assert outcome.good_tokens / SECONDS >= 0.9 * capacity
    assert outcome.p99() <= times * 0.5 + 2 * (FIXED + EACH * LIMITS.max_tokens)
    assert outcome.refused["QueueFullError"] > 0
    assert all(0 < hint <= 10 for hint in outcome.hints)


def test_three_times_the_load_with_deadlines_computes_almost_nothing_in_vain(capacity: float) -> None:
    outcome = simulate(3 * capacity, queue=QueueConfig(max_wait_seconds=60), patience=0.5)
    assert outcome.good_tokens / SECONDS >= 0.9 * capacity
    assert outcome.late <= 0.01 * len(outcome.waits)
    assert outcome.refused["DeadlineExceededError"] > 0


@pytest.mark.parametrize("jitter", [0.0, 0.3])
@pytest.mark.parametrize("patience", [1.0, 2.0])
def test_a_slow_model_answers_in_time_what_it_admits(jitter: float, patience: float) -> None:
    """A batch takes a good part of what callers wait: the one that runs and the one that is prepared count, too."""
    each, endless = 5e-4, QueueConfig(max_tokens=10**9, max_requests=10**9, max_wait_seconds=1e6)
    best = simulate(6_000, queue=endless, each=each, jitter=jitter).good_tokens / SECONDS
    outcome = simulate(3 * best, queue=QueueConfig(), patience=patience, each=each, jitter=jitter)
    assert outcome.good_tokens / SECONDS > (0.85 if patience < 2 else 0.93) * best
    assert outcome.late < 0.03 * len(outcome.waits)


def test_after_a_stall_the_server_finds_back(capacity: float) -> None:
    """What was measured during it must not keep requests away, and the lack of requests must not keep it."""
    outcome = simulate(3 * capacity, queue=QueueConfig(max_wait_seconds=0.5), patience=2.0, stall=5.0)
    assert outcome.good_tokens >= 0.85 * capacity * (SECONDS - 5)


def test_without_the_bound_of_time_the_wait_would_grow(capacity: float) -> None:
    """The bound is what does it: the same load with a bound by tokens alone."""
    outcome = simulate(3 * capacity, queue=QueueConfig(max_tokens=65_536, max_wait_seconds=60))
    assert outcome.p99() > 3.0


def test_a_crowd_of_one_client_s_requests_does_not_refuse_or_delay_the_others(capacity: float) -> None:
    outcome = simulate(3 * capacity, queue=QueueConfig(max_wait_seconds=0.5), crowd=0.9)
    others = [wait for client, waits in outcome.by_client.items() if client != "crowd" for wait in waits]
    assert len(others) > 0
    assert sorted(others)[len(others) // 2] < sorted(outcome.by_client["crowd"])[len(outcome.by_client["crowd"]) // 2]
    sent = 3 * capacity / 49.6 * SECONDS * 0.1
    assert len(others) >= 0.95 * sent


def test_under_capacity_nothing_is_refused_and_no_budget_lowered(capacity: float) -> None:
    outcome = simulate(0.7 * capacity, queue=QueueConfig(max_wait_seconds=0.5), budget=BudgetConfig(lowest=0.5))
    assert not outcome.refused
    assert set(outcome.budgets) == {1.0}


def test_a_lower_budget_serves_more_before_anything_is_refused(capacity: float) -> None:
    """One and a half times the load is served whole where k may be halved."""
    queue = QueueConfig(max_wait_seconds=0.5)
    refusing = simulate(1.5 * capacity, queue=queue)
    lowering = simulate(1.5 * capacity, queue=queue, budget=BudgetConfig(lowest=0.5))
    assert 0.5 <= min(lowering.budgets) < 1.0
    assert lowering.good_tokens > 1.2 * refusing.good_tokens
    assert sum(lowering.refused.values()) < 0.1 * sum(refusing.refused.values())
