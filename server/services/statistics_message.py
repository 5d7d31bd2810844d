"""A model's sums as the message of `ModelStatistics`."""

from lazyneuron.protocol import open_inference_pb2 as pb
from lazyneuron.server.statistics import BatchSums, Duration, ModelSums

__all__ = ["statistics_message"]


def statistics_message(name: str, version: str, sums: ModelSums) -> pb.ModelStatistics:
    """Return the message; durations are running sums, so a client takes differences."""
    return pb.ModelStatistics(
        name=name,
        version=version,
        last_inference=sums.last_inference,
        inference_count=sums.inference_count,
        execution_count=sums.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(sums.success),
            fail=_duration(sums.fail),
            queue=_duration(sums.queue),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
            **_batch(sums.requests),
        ),
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, **_batch(sums.batches[size])) for size in sorted(sums.batches)
        ],
    )


def _batch(sums: BatchSums) -> dict[str, pb.StatisticDuration]:
    return {
        "compute_input": _duration(sums.compute_input),
        "compute_infer": _duration(sums.compute_infer),
        "compute_output": _duration(sums.compute_output),
    }


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)
