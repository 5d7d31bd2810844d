"""What the page says, in words: each number under a key, by which the template places it and the script renews it."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lazyneuron.engine.artifact import Manifest
from lazyneuron.server.page.readings import Change, quantile
from lazyneuron.server.page.window import Window
from lazyneuron.server.page.words import count, duration, nice_top, operations, per_second, seconds, share, whole_share
from lazyneuron.server.repository import Entry

__all__ = ["BlockView", "ModelView", "Phase", "View", "draw"]

Phase = Literal["loading", "ready", "stopping"]
Takes = Literal["text", "image", "tensors"]

_STATES = {"READY": "serving", "LOADING": "loading", "UNLOADING": "unloading", "UNAVAILABLE": "not served"}
_MOST_UNAVAILABLE = 20
"""A folder may hold hundreds of versions that nobody asks for."""
_FULL, _MARK = 100.0, 98.0
"""Where a bar ends, and where its mark, two wide, is still seen."""


@dataclass(frozen=True, slots=True)
class BlockView:
    """One MLP block: the key of its values, its name, and what calibration saw (a share)."""

    key: str
    name: str
    exported: float


@dataclass(frozen=True, slots=True)
class ModelView:
    """One version.

    Attributes
    ----------
    key
        What the keys of its values begin with.
    state
        In words.
    manifest
        None where it is not loaded.
    """

    key: str
    name: str
    version: str
    state: str
    manifest: Manifest | None
    blocks: tuple[BlockView, ...] = ()

    @property
    def takes(self) -> Takes:
        """What a person can send it."""
        manifest = self.manifest
        if manifest is None or (manifest.tokenizer is None) == (manifest.image is None):
            return "tensors"
        return "text" if manifest.tokenizer is not None else "image"


@dataclass(frozen=True)
class View:
    """All that the page says.

    Attributes
    ----------
    phase
        Of the server.
    models
        Every version, loaded or not.
    hidden
        How many versions that are not served are left out.
    troubles
        What an admin should look at, in sentences: why a version is not served, a folder that cannot be read.
    values
        Numbers in words.
    bars
        Places on bars, 0 to 100.
    structure
        Changes when the page has to be drawn anew: other models, states or troubles.
    """

    phase: Phase
    models: tuple[ModelView, ...]
    hidden: int
    troubles: tuple[str, ...]
    values: Mapping[str, str]
    bars: Mapping[str, float]
    structure: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [(m.key, m.name, m.version, m.state, m.blocks) for m in self.models]
        text = repr((self.phase, self.hidden, self.troubles, parts))
        object.__setattr__(self, "structure", hashlib.sha256(text.encode()).hexdigest()[:16])


def draw(
    phase: Phase,
    entries: Iterable[Entry],
    loaded: Mapping[tuple[str, str], Manifest],
    window: Window,
    troubles: Sequence[str] = (),
) -> View:
    """Say what there is.

    Parameters
    ----------
    phase
        Of the server.
    entries
        The repository's index.
    loaded
        The manifests of the versions that are served, by name and version.
    window
        What the metrics said in the last minutes.
    troubles
        The repository's; the first of them are shown.
    """
    models, hidden = _models(entries, loaded)
    span, moment, now = window.span(), window.moment(), window.latest.now
    values = _headline(window, span) | _whole(span, moment, now)
    bars: dict[str, float] = {}
    for model in models:
        if model.manifest is not None:
            values |= _of_model(model, span, moment, now)
            _blocks(model, span, values, bars)
    return View(phase, models, hidden, tuple(troubles[:_MOST_UNAVAILABLE]), values, bars)


def _models(entries: Iterable[Entry], loaded: Mapping[tuple[str, str], Manifest]) -> tuple[tuple[ModelView, ...], int]:
    shown: list[Entry] = []
    unavailable = hidden = 0
    for entry in entries:
        unavailable += entry.state == "UNAVAILABLE"
        if entry.state == "UNAVAILABLE" and unavailable > _MOST_UNAVAILABLE:
            hidden += 1
        else:
            shown.append(entry)
    return tuple(
        _model(f"m{i}", entry, loaded.get((entry.name, entry.version))) for i, entry in enumerate(shown)
    ), hidden


def _model(key: str, entry: Entry, manifest: Manifest | None) -> ModelView:
    blocks = tuple(
        BlockView(f"{key}.b{i}", block.name, block.density.mean)
        for i, block in enumerate(manifest.blocks if manifest is not None else ())
    )
    return ModelView(key, entry.name, entry.version, _STATES[entry.state], manifest, blocks)


def _headline(window: Window, span: Change) -> dict[str, str]:
    """Say which share of the MLP's FLOPs was saved in the last five minutes; or why none can be told."""
    dense, executed = span.total("mlp_flops_dense_total"), span.total("mlp_flops_executed_total")
    when = f"since the server started, {duration(span.seconds)} ago" if window.young else "in the last five minutes"
    if not dense:
        number, words = "", f"No request has run {when}, so there is no share of saved FLOPs to tell."
        detail = ""
    else:
        saved = 1 - executed / dense
        number = share(abs(saved))
        words = (
            f"of the MLP’s FLOPs were saved {when}."
            if saved >= 0
            else f"more FLOPs than dense MLP blocks need were spent {when}: skipping cost more than it saved."
        )
        time = _time(
            span.total("mlp_estimated_dense_seconds_total"), span.total("mlp_estimated_executed_seconds_total")
        )
        detail = f"{operations(executed)} were done where dense MLP blocks take {operations(dense)}; {time}."
    return {"share": number, "headline": words, "detail": detail, "so_far": _so_far(window)}


def _so_far(window: Window) -> str:
    dense, executed, dense_seconds, executed_seconds = window.ever.values()
    if window.young or not dense:
        return ""
    started = duration(window.latest.time - window.first.time)
    saved = f"{share(1 - executed / dense)} saved ({operations(dense - executed)})"
    return f"Since the server started, {started} ago: {saved}; {_time(dense_seconds, executed_seconds)}."


def _time(dense: float, executed: float) -> str:
    """Say how much of the engine's time was saved, by the cost model."""
    if not dense and not executed:
        return "the time saved is not estimated"
    if dense >= executed:
        return f"about {seconds(dense - executed)} of the engine’s time saved, by estimate"
    return f"about {seconds(executed - dense)} more of the engine’s time spent than dense blocks take, by estimate"


def _whole(span: Change, moment: Change, now: Change) -> dict[str, str]:
    """Return the numbers over all models."""
    latency = span.all_by("le", "request_duration_seconds_bucket")
    return {
        "rate": _rate(moment, moment.total("requests_total")),
        "requests": count(span.total("requests_total")),
        "p50": _latency(0.5, latency),
        "p99": _latency(0.99, latency),
        "queue": count(now.total("queue_requests")),
        "running": count(now.total("running_batches")),
        "refused": _refused(span.all_by("reason", "requests_refused_total")),
    }


def _of_model(model: ModelView, span: Change, moment: Change, now: Change) -> dict[str, str]:
    key, of = model.key, (model.name, model.version)
    latency = span.by("le", "request_duration_seconds_bucket", *of)
    waiting = count(now.of("queue_requests", *of))
    if now.has("queue_limit_tokens", *of):
        tokens, limit = now.of("queue_tokens", *of), now.of("queue_limit_tokens", *of)
        waiting += f" ({count(tokens)} of {count(limit)} tokens)"
    running = count(now.of("running_batches", *of))
    if now.has("concurrency", *of):
        running += f" of {count(now.of('concurrency', *of))}"
    lowered = span.of("budget_lowered_requests_total", *of)
    return {
        f"{key}.rate": _rate(moment, moment.of("requests_total", *of)),
        f"{key}.requests": count(span.of("requests_total", *of)),
        f"{key}.saved": _saved(span, of),
        f"{key}.saved_ever": _saved(now, of),
        f"{key}.time": _seconds_saved(span, of),
        f"{key}.time_ever": _seconds_saved(now, of),
        f"{key}.p50": _latency(0.5, latency),
        f"{key}.p99": _latency(0.99, latency),
        f"{key}.queue": waiting,
        f"{key}.running": running,
        f"{key}.refused": _refused(span.by("reason", "requests_refused_total", *of)),
        f"{key}.budget": (whole_share(now.of("budget", *of)) if now.has("budget", *of) else "–")
        + (f", {count(lowered)} requests lowered" if lowered else ""),
    }


def _blocks(model: ModelView, span: Change, values: dict[str, str], bars: dict[str, float]) -> None:
    """Set each block's density against the exported one, on one scale for the model."""
    of = (model.name, model.version)
    neurons, active = (span.by("block", name, *of) for name in ("mlp_neurons_total", "mlp_neurons_active_total"))
    densities = [active.get(b.name, 0) / n if (n := neurons.get(b.name)) else math.nan for b in model.blocks]
    known = [density for density in densities if not math.isnan(density)]
    top = nice_top(max([*known, *(block.exported for block in model.blocks)]))
    values[f"{model.key}.top"] = whole_share(top)
    for block, density in zip(model.blocks, densities, strict=True):
        values[f"{block.key}.now"] = share(density)
        values[f"{block.key}.exported"] = share(block.exported)
        bars[f"{block.key}.now"] = round(min(_FULL, _FULL * density / top), 2) if not math.isnan(density) else 0.0
        bars[f"{block.key}.exported"] = round(min(_MARK, _FULL * block.exported / top), 2)


def _saved(change: Change, of: tuple[str, str]) -> str:
    dense = change.of("mlp_flops_dense_total", *of)
    return share(1 - change.of("mlp_flops_executed_total", *of) / dense) if dense else "no requests"


def _seconds_saved(change: Change, of: tuple[str, str]) -> str:
    dense = change.of("mlp_estimated_dense_seconds_total", *of)
    executed = change.of("mlp_estimated_executed_seconds_total", *of)
    if not dense and not executed:
        return "not estimated" if change.of("mlp_flops_dense_total", *of) else "no requests"
    return ("\N{MINUS SIGN}" if executed > dense else "") + seconds(dense - executed)


def _refused(reasons: Mapping[str, float]) -> str:
    there = sorted(((n, reason) for reason, n in reasons.items() if n), reverse=True)
    if not there:
        return "0"
    words = ", ".join(f"{reason.replace('_', ' ')} {count(n)}" for n, reason in there)
    return f"{count(sum(n for n, _ in there))} ({words})"


def _rate(moment: Change, requests: float) -> str:
    return per_second(requests / moment.seconds) if moment.seconds > 0 else "0.0"


def _latency(at: float, buckets: Mapping[str, float]) -> str:
    """Say a quantile; one beyond the last bound is only known to be more than that."""
    value = quantile(at, buckets)
    finite = [float(bound) for bound in buckets if bound != "+Inf"]
    return ("over " if finite and value == max(finite) else "") + seconds(value)
