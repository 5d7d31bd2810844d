"""What `lazyneuron top` tells, worked out from two looks at a server's metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lazyneuron.scrape import Labels, Snapshot

__all__ = ["Block", "Figures", "ModelFigures", "figures", "quantile"]


@dataclass(frozen=True)
class Block:
    """One MLP block.

    Attributes
    ----------
    name
        Its name.
    density, density_since_start, exported_density
        The share of its neurons that were active: in the window, since the start, and on the calibration data. None
        where no row ran.
    candidates
        The share whose up projection was computed, in the window, or else since the start.
    """

    name: str
    density: float | None
    density_since_start: float | None
    exported_density: float | None
    candidates: float | None

    @property
    def shown(self) -> float | None:
        """The latest density there is."""
        return self.density_since_start if self.density is None else self.density

    @property
    def drift(self) -> float | None:
        """How many times as dense as at export it is; None where one of the two is not known."""
        if self.shown is None or not self.exported_density:
            return None
        return self.shown / self.exported_density


@dataclass(frozen=True)
class Saved:
    """What skipping saved, in the window and since the start; None where nothing ran.

    Attributes
    ----------
    share
        Of the MLP blocks' FLOPs.
    flops
        Of them, in all.
    seconds
        Estimated from measured costs: of a core's time, if the costs are of one thread.
    """

    share: float | None
    flops: float
    seconds: float | None


@dataclass(frozen=True)
class ModelFigures:
    """One version. Rates are of the window, in a second; what did not happen in it is None."""

    model: str
    version: str
    task: str
    mode: str
    loaded_seconds: float | None
    memory_bytes: float | None
    requests_per_second: float
    tokens_per_second: float
    errors_per_second: dict[str, float]
    """By gRPC status."""
    refused_per_second: dict[str, float]
    """By reason."""
    latency_p50_seconds: float | None
    latency_p99_seconds: float | None
    queue_requests: float
    queue_tokens: float
    queue_limit_tokens: float | None
    running_batches: float
    concurrency: float | None
    budget: float | None
    lowered_per_second: float
    batches_per_second: float
    batch_requests: float | None
    """Requests in a batch, the mean."""
    batch_tokens: float | None
    batch_fill: float | None
    """The share of the most tokens that a batch may have."""
    padding: float | None
    """The share of the tokens that is padding."""
    saved: Saved
    saved_since_start: Saved
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """A server.

    Attributes
    ----------
    window_seconds
        What rates are of; None: there was one look alone, or the server has started since the last.
    restarted
        Whether it has started since the last look.
    up_seconds
        Since its start.
    build
        Its version, instruction set and the like.
    nameless_per_second
        Requests that named no loaded model.
    models
        By name and version.
    """

    window_seconds: float | None
    restarted: bool
    up_seconds: float | None
    build: dict[str, str]
    nameless_per_second: float
    models: list[ModelFigures]


def figures(earlier: Snapshot | None, later: Snapshot) -> Figures:
    """Work out what to show.

    A counter that has fallen was begun anew, as when a version or the server was started again: what it shows then is
    what was added.

    Parameters
    ----------
    earlier
        The look before; None: none, and no rate is known.
    later
        The latest look.
    """
    restarted = earlier is not None and _started(earlier) != _started(later)
    window = _Window(None if restarted else earlier, later)
    started = _started(later)
    build = next((labels for labels, _ in later.of("build_info")), {})
    versions = sorted(
        ((labels["model"], labels["version"], labels) for labels, _ in later.of("model_info")),
        key=lambda one: (one[0], len(one[1]), one[1]),
    )
    return Figures(
        window_seconds=window.seconds,
        restarted=restarted,
        up_seconds=None if started is None else max(0.0, later.wall - started),
        build=build,
        nameless_per_second=window.rate("requests_total", model=""),
        models=[_of_model(window, model, version, about) for model, version, about in versions],
    )


def _started(snapshot: Snapshot) -> float | None:
    return snapshot.one("process_start_time_seconds")


class _Window:
    """What was added between two looks; without the earlier one nothing."""

    def __init__(self, earlier: Snapshot | None, later: Snapshot) -> None:
        self.earlier = earlier
        self.later = later
        self.seconds = None if earlier is None else max(later.at - earlier.at, 1e-3)

    def added(self, name: str, **labels: str) -> float:
        """Return what was added to the counters of a name and labels."""
        return sum(self.each(name, **labels).values())

    def each(self, name: str, **labels: str) -> dict[Labels, float]:
        """Return what was added to each of them."""
        if self.earlier is None:
            return {}
        before = {frozenset(have.items()): value for have, value in self.earlier.of(name, **labels)}
        found = {}
        for have, value in self.later.of(name, **labels):
            key = frozenset(have.items())
            base = before.get(key, 0.0)
            found[key] = value - base if value >= base else value
        return found

    def rate(self, name: str, **labels: str) -> float:
        """Return what was added in a second."""
        return self.added(name, **labels) / self.seconds if self.seconds else 0.0

    def rates(self, name: str, label: str, leave_out: str = "", **labels: str) -> dict[str, float]:
        """Return the rates that are not 0, by the values of a label."""
        if not self.seconds:
            return {}
        by_value = {dict(key)[label]: value / self.seconds for key, value in self.each(name, **labels).items()}
        return {name: rate for name, rate in sorted(by_value.items()) if rate > 0 and name != leave_out}

    def mean(self, name: str, **labels: str) -> float | None:
        """Return the mean of what a histogram was given."""
        return _ratio(self.added(f"{name}_sum", **labels), self.added(f"{name}_count", **labels))

    def total(self, name: str, **labels: str) -> float:
        """Return the counters' present value."""
        return sum(value for _, value in self.later.of(name, **labels))

    def quantile(self, share: float, name: str, **labels: str) -> float | None:
        """Return a quantile of what a histogram was given."""
        buckets = {float(dict(key)["le"]): count for key, count in self.each(f"{name}_bucket", **labels).items()}
        return quantile(share, buckets)


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram as Prometheus does: straight within a bucket, its bound above the last.

    Parameters
    ----------
    share
        0 to 1.
    buckets
        By their upper bound, infinity among them: how many values are not above it.

    Returns
    -------
    None where there is no value.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, below, lower = share * total, 0.0, 0.0
    for bound in bounds:
        count = max(buckets[bound], below)  # each counter may have been read at its own moment
        if count >= rank and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        below, lower = count, bound if bound != float("inf") else lower
    return lower


def _of_model(window: _Window, model: str, version: str, about: Mapping[str, str]) -> ModelFigures:
    which = {"model": model, "version": version}
    later = window.later
    batch_tokens, limit = window.mean("batch_tokens", **which), later.one("batch_limit_tokens", **which)
    estimated = later.one("mlp_estimated_dense_seconds_total", **which) is not None
    return ModelFigures(
        model=model,
        version=version,
        task=about.get("task", ""),
        mode=about.get("mode", ""),
        loaded_seconds=later.one("model_loaded_seconds", **which),
        memory_bytes=later.one("model_memory_bytes", **which),
        requests_per_second=window.rate("requests_total", **which),
        tokens_per_second=window.rate("tokens_total", kind="real", **which),
        errors_per_second=window.rates("requests_total", "code", leave_out="OK", **which),
        refused_per_second=window.rates("requests_refused_total", "reason", **which),
        latency_p50_seconds=window.quantile(0.5, "request_duration_seconds", **which),
        latency_p99_seconds=window.quantile(0.99, "request_duration_seconds", **which),
        queue_requests=later.one("queue_requests", **which) or 0.0,
        queue_tokens=later.one("queue_tokens", **which) or 0.0,
        queue_limit_tokens=later.one("queue_limit_tokens", **which),
        running_batches=later.one("running_batches", **which) or 0.0,
        concurrency=later.one("concurrency", **which),
        budget=later.one("budget", **which),
        lowered_per_second=window.rate("budget_lowered_requests_total", **which),
        batches_per_second=window.rate("batch_requests_count", **which),
        batch_requests=window.mean("batch_requests", **which),
        batch_tokens=batch_tokens,
        batch_fill=None if batch_tokens is None or not limit else batch_tokens / limit,
        padding=_ratio(window.added("tokens_total", kind="padding", **which), window.added("tokens_total", **which)),
        saved=_saved(window.added, which, estimated=estimated),
        saved_since_start=_saved(window.total, which, estimated=estimated),
        blocks=[_of_block(window, labels) for labels, _ in later.of("exported_density", **which)],
    )


def _saved(counted: Callable[..., float], which: Mapping[str, str], *, estimated: bool) -> Saved:
    dense = counted("mlp_flops_dense_total", **which)
    flops = dense - counted("mlp_flops_executed_total", **which)
    names = ("mlp_estimated_dense_seconds_total", "mlp_estimated_executed_seconds_total")
    seconds = counted(names[0], **which) - counted(names[1], **which) if estimated else None
    return Saved(_ratio(flops, dense), flops, seconds)


def _of_block(window: _Window, which: Mapping[str, str]) -> Block:
    def share(counted: Callable[..., float], kind: str) -> float | None:
        return _ratio(counted(f"mlp_neurons_{kind}_total", **which), counted("mlp_neurons_total", **which))

    candidates = share(window.added, "candidate")
    return Block(
        name=which["block"],
        density=share(window.added, "active"),
        density_since_start=share(window.total, "active"),
        exported_density=window.later.one("exported_density", **which),
        candidates=share(window.total, "candidate") if candidates is None else candidates,
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
