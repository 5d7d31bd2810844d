"""What is asked of the metrics, in PromQL: each question once, for the dashboards and the rules alike.

A share or a ratio is always the ratio of two sums of rates, so it is right over any window and any number of replicas.
"""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NO_ROOM", "SERVER_FAULTS", "Scope"]

SERVER_FAULTS = (
    "ABORTED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "UNKNOWN",
)
"""gRPC codes of answers that spend the error budget: the caller did nothing wrong and was not served.

A client that has its share (`client_limit`) is answered RESOURCE_EXHAUSTED, too, and is not counted among them.
"""

NO_ROOM = 'reason=~"queue_full|queue_wait"'
"""Refusals for want of room in the queue, by size or by time."""

_OVER_SHARE = 'reason="client_limit"'
_FAULTS = 'code=~"' + "|".join(SERVER_FAULTS) + '"'


@dataclass(frozen=True)
class Scope:
    """Which series are asked, over what time, and how answers are told apart.

    Every method returns an expression that can stand as an operand in another.

    Attributes
    ----------
    window
        The time over which counters are read, as PromQL has it: `5m`, or `$__rate_interval` in a dashboard.
    by
        The labels by which answers are told apart; `block` is added where the question is of blocks.
    selector
        What all series have to match: label matchers, joined by commas.
    function
        `rate`, or `irate` for the last two scrapes alone.
    """

    window: str
    by: tuple[str, ...] = ("job", "model", "version")
    selector: str = ""
    function: str = "rate"

    def series(self, metric: str, *matchers: str) -> str:
        """Return the selector of one of lazyneuron's metrics, named without its prefix."""
        inside = ", ".join([*filter(None, [self.selector]), *matchers])
        return f"lazyneuron_{metric}" + (f"{{{inside}}}" if inside else "")

    def rate(self, metric: str, *matchers: str, by: Iterable[str] = ()) -> str:
        """Return a counter's increase a second."""
        return f"{self._grouped('sum', by)} ({self.function}({self.series(metric, *matchers)}[{self.window}]))"

    def now(self, metric: str, *matchers: str, by: Iterable[str] = (), aggregate: str = "sum") -> str:
        """Return a gauge's present value."""
        return f"{self._grouped(aggregate, by)} ({self.series(metric, *matchers)})"

    def increase(self, metric: str, *matchers: str, by: Iterable[str] = ()) -> str:
        """Return by how much a counter went up in the window."""
        return f"{self._grouped('sum', by)} (increase({self.series(metric, *matchers)}[{self.window}]))"

    def mean(self, metric: str) -> str:
        """Return the mean of a histogram's values."""
        return _ratio(self.rate(f"{metric}_sum"), self.rate(f"{metric}_count"))

    # Sparsity.

    def density(self, by: Iterable[str] = ("block",)) -> str:
        """Give the share of neurons that were active."""
        return _ratio(self.rate("mlp_neurons_active_total", by=by), self.rate("mlp_neurons_total", by=by))

    def candidates(self, by: Iterable[str] = ("block",)) -> str:
        """Give the share of neurons whose input was computed."""
        return _ratio(self.rate("mlp_neurons_candidate_total", by=by), self.rate("mlp_neurons_total", by=by))

    def candidates_for_each_active(self) -> str:
        """Give how many neurons' inputs were computed for each active neuron; 1 is a perfect screen or predictor."""
        by = ("block",)
        return _ratio(self.rate("mlp_neurons_candidate_total", by=by), self.rate("mlp_neurons_active_total", by=by))

    def exported_density(self) -> str:
        """Give the share of neurons that calibration saw active, by block."""
        return self.now("exported_density", by=("block",), aggregate="max")

    def exported_density_of_all(self) -> str:
        """Give the same of all blocks together, each weighed by the neurons that it had in the window."""
        neurons = self.rate("mlp_neurons_total", by=("block",))
        weighed = f"{self._grouped('sum', ())} ({self.exported_density()} * {neurons})"
        return _ratio(weighed, self.rate("mlp_neurons_total"))

    def drift(self) -> str:
        """Give the density over what calibration saw, by block: 1 is traffic like the calibration data."""
        return f"({self.density()} / {self.exported_density()})"

    def rows(self) -> str:
        """Give the rows that each block saw in the window."""
        return self.increase("mlp_row_density_ratio_count", by=("block",))

    def row_density(self, quantile: float) -> str:
        """Give the density that this share of a block's rows stayed under."""
        return self._quantile("mlp_row_density_ratio", quantile, ("block",))

    def flops_saved(self) -> str:
        """Give the share of the MLP blocks' FLOPs that was not executed; negative where skipping cost more."""
        executed, dense = self.rate("mlp_flops_executed_total"), self.rate("mlp_flops_dense_total")
        return f"(1 - {executed} / {dense})"

    def seconds_saved(self, by: Iterable[str] = ()) -> str:
        """Give the engine seconds saved in each second, by the cost model's estimate."""
        dense = self.rate("mlp_estimated_dense_seconds_total", by=by)
        return f"({dense} - {self.rate('mlp_estimated_executed_seconds_total', by=by)})"

    def time_saved(self, by: Iterable[str] = ()) -> str:
        """Give the share of the MLP blocks' time that was saved, by the cost model's estimate."""
        executed = self.rate("mlp_estimated_executed_seconds_total", by=by)
        return f"(1 - {executed} / {self.rate('mlp_estimated_dense_seconds_total', by=by)})"

    # Requests.

    def errors(self) -> str:
        """Give the share of requests that were not served though the caller did nothing wrong."""
        every = self.rate("requests_total")
        # A code makes no series before it was answered once: that is a share of 0, not none.
        failed = f"({self.rate('requests_total', _FAULTS)} or 0 * {every})"
        over_share = f"({self.rate('requests_refused_total', _OVER_SHARE)} or 0 * {every})"
        return f"(clamp_min({failed} - {over_share}, 0) / {every})"

    def slow(self, seconds: float) -> str:
        """Give the share of requests that took longer than this, which has to be the bound of a bucket."""
        quick = self.rate("request_duration_seconds_bucket", f'le="{float(seconds)}"')
        return f"(1 - {quick} / {self.rate('request_duration_seconds_count')})"

    def latency(self, quantile: float) -> str:
        """Give the seconds that this share of the requests stayed under."""
        return self._quantile("request_duration_seconds", quantile, ())

    def wait(self, quantile: float) -> str:
        """Give the seconds in the queue that this share of the requests stayed under."""
        return self._quantile("queue_duration_seconds", quantile, ())

    def refused(self, *matchers: str) -> str:
        """Give the share of requests that were refused."""
        every = self.rate("requests_total")
        return f"(({self.rate('requests_refused_total', *matchers)} or 0 * {every}) / {every})"

    # Load.

    def queue_fill(self) -> str:
        """Give the fullest queue's tokens over its limit."""
        fill = f"{self.series('queue_tokens')} / {self.series('queue_limit_tokens')}"
        return f"{self._grouped('max', ())} ({fill})"

    def busy(self) -> str:
        """Give the servers' worth of work: the batches that ran at a time, over how many of a model's fill a server."""
        seconds = f"{self.function}({self.series('inference_duration_seconds_sum')}[{self.window}])"
        return f"{self._grouped('sum', ())} ({seconds} / {self.series('concurrency')})"

    def servers(self) -> str:
        """Give the number of servers that have the models loaded."""
        each = f"count by ({', '.join(dict.fromkeys(['job', 'instance', *self.by]))}) ({self.series('model_info')})"
        return f"{self._grouped('count', ())} ({each})"

    def utilisation(self) -> str:
        """Give the share of the time in which the engine ran; 1 is a server that can do no more."""
        return _ratio(self.busy(), self.servers())

    def busy_if_dense(self) -> str:
        """Give the servers' worth of work that dense MLP blocks would have been, by the cost model's estimate."""
        saved = " - ".join(
            f"{self.function}({self.series(f'mlp_estimated_{what}_seconds_total')}[{self.window}])"
            for what in ("dense", "executed")
        )
        by_model = f"sum by (job, instance, model, version) ({saved})"
        return f"({self.busy()} + {self._grouped('sum', ())} ({by_model} / {self.series('concurrency')}))"

    def cost(self, price: str, servers: str) -> str:
        """Give what a million real tokens cost, of servers at this price an hour each."""
        return f"(1e6 * {price} / 3600 * {servers} / {self.tokens()})"

    def batch_fill(self) -> str:
        """Give the mean batch's tokens, padding included, over the most that it may have."""
        return _ratio(self.mean("batch_tokens"), self.now("batch_limit_tokens", aggregate="max"))

    def padding(self) -> str:
        """Give the share of the tokens run that was padding."""
        return _ratio(self.rate("tokens_total", 'kind="padding"'), self.rate("tokens_total"))

    def tokens(self) -> str:
        """Give the real tokens a second."""
        return self.rate("tokens_total", 'kind="real"')

    def _grouped(self, aggregate: str, by: Iterable[str]) -> str:
        labels = [*self.by, *by]
        return f"{aggregate} by ({', '.join(labels)})" if labels else aggregate

    def _quantile(self, metric: str, quantile: float, by: Iterable[str]) -> str:
        return f"histogram_quantile({quantile}, {self.rate(f'{metric}_bucket', by=(*by, 'le'))})"


def _ratio(of: str, over: str) -> str:
    return f"({of} / {over})"
