"""The sums that `ModelStatistics` tells."""

from lazyneuron.engine.model import BatchResult
from lazyneuron.server.services.statistics_message import statistics_message
from lazyneuron.server.statistics import ModelSums, Statistics


def batch(examples: int, requests: int, seconds: float = 0.5) -> BatchResult:
    return BatchResult([None] * requests, 0, 0, 0, 0, seconds, examples, 0.25, 0.125)  # type: ignore[list-item]


def test_a_batch_counts_once_and_for_each_of_its_requests() -> None:
    sums = ModelSums()
    sums.batch(batch(examples=5, requests=2), waits=[0.1, 0.3])
    sums.batch(batch(examples=5, requests=1), waits=[0.0])
    sums.batch(batch(examples=1, requests=1), waits=[0.0])
    sums.answered(1.0, ok=True)
    sums.answered(2.0, ok=False)
    message = statistics_message("m", "3", sums)
    stats = message.inference_stats
    assert (message.name, message.version, message.inference_count, message.execution_count) == ("m", "3", 11, 3)
    assert (stats.queue.count, stats.queue.ns) == (4, 400_000_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (4, 2_000_000_000)
    assert (stats.compute_input.ns, stats.compute_output.ns) == (1_000_000_000, 500_000_000)
    assert (stats.success.count, stats.success.ns, stats.fail.count, stats.fail.ns) == (1, 10**9, 1, 2 * 10**9)
    assert [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in message.batch_stats] == [
        (1, 1, 500_000_000),
        (5, 2, 1_000_000_000),
    ]
    assert message.last_inference > 1_600_000_000_000


def test_what_clients_choose_is_bounded() -> None:
    sums = ModelSums()
    for examples in range(3000):
        sums.batch(batch(examples, 1), waits=[0.0])
    assert len(sums.batches) == 1024
    assert sums.execution_count == 3000


def test_a_model_begins_at_zero_and_can_be_forgotten() -> None:
    statistics = Statistics()
    statistics.begin("m", "1").answered(1.0, ok=True)
    assert statistics.of("m", "1").success.count == 1
    assert statistics.begin("m", "1").success.count == 0
    statistics.forget("m", "1")
    statistics.forget("m", "1")
    statistics.of("m", "1").answered(1.0, ok=True)
    assert statistics.of("m", "1").success.count == 0
