"""What `lazyneuron top` draws: a card for each model, with its blocks' densities as bars against the exported ones."""

import re
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from lazyneuron.cli.top_figures import Block, Figures, ModelFigures, Saved

__all__ = ["TopView"]

_NONE = "–"
_UNITS = ("", "k", "M", "G", "T", "P", "E", "Z")
_LONGEST_NAME, _SHORTEST_NAME, _LONGEST_BAR, _SHORTEST_BAR = 32, 8, 40, 8
_FIXED = 2
_DRIFTED = 1.25
"""From this ratio of the realised density to the exported one on, or below its inverse, a block is marked."""
_DRIFT_MARK = "!"
_YOUNG_SECONDS = 60
_CARD_LINES, _HEAD_LINES = 9, 3


class TopView:
    """The whole picture, drawn anew for whatever size the terminal has.

    Parameters
    ----------
    url
        Where it is from.
    fitted
        Whether blocks that the terminal has no room for are left out.

    Attributes
    ----------
    figures
        What to show.
    trouble
        Why they are old; empty: they are not.
    """

    def __init__(self, url: str, figures: Figures, *, fitted: bool) -> None:
        self.url = url
        self.figures = figures
        self.trouble = ""
        self._fitted = fitted
        self._restarted = figures.restarted

    def show(self, figures: Figures) -> None:
        """Take up a new look; that the server was started again is told for a minute."""
        young = figures.up_seconds is not None and figures.up_seconds < _YOUNG_SECONDS
        self._restarted = figures.restarted or (self._restarted and young)
        self.figures, self.trouble = figures, ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        plain = options.ascii_only
        yield from self._head()
        models = self.figures.models
        if not models:
            yield Text("\nno model is loaded")
        room = self._room(console.height, len(models))
        for model in models:
            yield Text()
            yield _title(model)
            yield _card(model, self.figures.window_seconds)
            yield from _blocks(model.blocks, room, options.max_width, plain=plain)

    def _head(self) -> Iterator[Text]:
        figures = self.figures
        build = figures.build
        parts = [f"lazyneuron {build.get('version', '')}".rstrip(), self.url.removesuffix("/metrics")]
        parts += [build["isa"]] if "isa" in build else []
        parts += [f"up {_duration(figures.up_seconds)}"] if figures.up_seconds is not None else []
        if figures.window_seconds is not None:
            parts.append(f"rates of the last {_duration(figures.window_seconds)}")
        yield Text(" · ".join(parts), style="bold")
        if self.trouble:
            yield Text(f"not up to date: {self.trouble}", style="bold red")
        elif self._restarted:
            yield Text("the server has been started again", style="yellow")
        if figures.nameless_per_second:
            yield Text(f"{_rate(figures.nameless_per_second)} requests for no model that is loaded", style="yellow")

    def _room(self, height: int, models: int) -> int | None:
        """Return how many lines each model has for its blocks; None: as many as it wants."""
        if not self._fitted or not models:
            return None
        return max(1, (height - _HEAD_LINES) // models - _CARD_LINES)


def _title(model: ModelFigures) -> Text:
    text = Text(f"{model.model} version {model.version}", style="bold cyan")
    about = ", ".join(part for part in (model.task, model.mode) if part)
    if model.loaded_seconds is not None:
        about += f" · loaded for {_duration(model.loaded_seconds)}"
    if model.memory_bytes is not None:
        about += f" · {_memory(model.memory_bytes)}"
    return text.append(f"  {about}", style="not bold dim")


def _card(model: ModelFigures, window: float | None) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("  requests", _requests(model))
    latencies = ((50, model.latency_p50_seconds), (99, model.latency_p99_seconds))
    grid.add_row("  latency", " · ".join(f"p{share} {_duration(seconds)}" for share, seconds in latencies))
    limit = "" if model.queue_limit_tokens is None else f" of {_count(model.queue_limit_tokens)}"
    running = _count(model.running_batches) + ("" if model.concurrency is None else f" of {_count(model.concurrency)}")
    budget = "" if model.budget is None else f" · budget {_share(model.budget)}"
    lowered = f" ({_rate(model.lowered_per_second)} requests lowered)" if model.lowered_per_second else ""
    queue = f"{_count(model.queue_requests)} requests, {_count(model.queue_tokens)}{limit} tokens wait"
    grid.add_row("  queue", f"{queue} · {running} batches run{budget}{lowered}")
    grid.add_row("  batches", _batches(model))
    now = "now" if window is None else f"last {_duration(window)}"
    grid.add_row(f"  {now}", _saved(model.saved), style="green")
    grid.add_row("  since start", _saved(model.saved_since_start), style="green")
    return grid


def _requests(model: ModelFigures) -> Text:
    text = Text(f"{_rate(model.requests_per_second)} · {_count(model.tokens_per_second)} tokens/s · ")
    errors = model.errors_per_second
    text.append(f"errors {_rate(sum(errors.values()))}{_named(errors)}", style="red" if errors else "")
    if model.refused_per_second:
        text.append(f" · refused{_named(model.refused_per_second)}", style="red")
    return text


def _named(rates: Mapping[str, float]) -> str:
    return f" ({', '.join(f'{name} {_rate(rate)}' for name, rate in rates.items())})" if rates else ""


def _batches(model: ModelFigures) -> str:
    if model.batch_requests is None:
        return _NONE
    fill = "" if model.batch_fill is None else f" ({_share(model.batch_fill)} full)"
    return (
        f"{_rate(model.batches_per_second)} of {model.batch_requests:.1f} requests, {_count(model.batch_tokens)} "
        f"tokens{fill}, {_share(model.padding)} of them padding"
    )


def _saved(saved: Saved) -> str:
    if saved.share is None:
        return "nothing ran"
    text = f"{_share(saved.share)} of the MLP's FLOPs saved ({_scaled(saved.flops)}FLOP)"
    if saved.seconds is None:
        return text
    what = "saved" if saved.seconds >= 0 else "lost"
    return f"{text} · about {_duration(abs(saved.seconds))} {what}, by estimate"


def _blocks(blocks: Sequence[Block], room: int | None, width: int, *, plain: bool) -> Iterator[Table | Text]:
    shown, note = _fitting(blocks, room)
    if not shown:
        return
    line = "|" if plain else "│"
    yield Text(f"  density of each block, {line} as exported{note}", style="dim")
    most = max([share for b in shown for share in (b.shown, b.exported_density) if share is not None], default=0.0)
    names = _short_names([block.name for block in shown])
    marks = [_mark(block) for block in shown]
    columns = [[_share(block.shown, digits=2) for block in shown], marks]
    columns.append([f"exported {_share(block.exported_density, digits=2)}" for block in shown])
    if any(block.candidates not in {None, 1.0} for block in shown):
        columns.append([f"candidates {_share(block.candidates)}" for block in shown])
    # What there is room for, the densities and marks in any case; names and bars share the rest.
    widths = [max(map(len, column)) for column in columns]
    while len(widths) > _FIXED and sum(widths) + len(widths) + _SHORTEST_NAME + _SHORTEST_BAR + 3 > width:
        widths.pop()
    left = max(width - sum(widths) - len(widths) - 3, _SHORTEST_NAME + _SHORTEST_BAR)
    name_width = min(max(map(len, names)), _LONGEST_NAME, max(left - _LONGEST_BAR, left // 2))
    bar_width = min(_LONGEST_BAR, left - name_width)
    grid = Table.grid(padding=(0, 1))
    for _ in range(len(widths) + 2):
        grid.add_column(no_wrap=True)
    for row, block in enumerate(shown):
        style = "yellow" if marks[row].endswith(_DRIFT_MARK) else "cyan"
        cells = [Text(column[row].rjust(w)) for column, w in zip(columns, widths, strict=False)]
        cells[1].stylize(style)
        name = names[row] if len(names[row]) <= name_width else f"…{names[row][1 - name_width :]}"
        grid.add_row(Text(f"  {name}"), Text(_bar(block, most, bar_width, plain=plain), style=style), *cells)
    yield grid


def _mark(block: Block) -> str:
    """Return how many times as dense as at export a block is, and a sign where that is far from 1."""
    drift = block.drift
    if drift is None:
        return ""
    return f"×{drift:.2f} {' ' if 1 / _DRIFTED < drift < _DRIFTED else _DRIFT_MARK}"


def _short_names(names: list[str]) -> list[str]:
    """Return the names without the parts at their ends that are the same in all."""
    parts = [re.split(r"(?<=[./])", name) for name in names]
    while len(parts) > 1 and len({part[-1] for part in parts}) == 1 and all(len(part) > 1 for part in parts):
        parts = [part[:-1] for part in parts]
    return ["".join(part).rstrip("./") for part in parts]


def _fitting(blocks: Sequence[Block], room: int | None) -> tuple[Sequence[Block], str]:
    """Return those that there is room for: of too many the ones furthest from what was exported, in their order."""
    if room is None or len(blocks) <= room:
        return blocks, ""
    kept = max(1, room)
    furthest = sorted(blocks, key=lambda b: -abs((b.shown or 0.0) - (b.exported_density or 0.0)))[:kept]
    note = f"; {kept} of {len(blocks)} blocks, those furthest from it"
    return [block for block in blocks if block in furthest], note


def _bar(block: Block, most: float, width: int, *, plain: bool) -> str:
    """Return a bar as long as the realised density, with a line where the exported one is."""
    full, rest, line = ("#", ".", "|") if plain else ("█", "·", "│")
    filled = 0 if block.shown is None or not most else round(block.shown / most * width)
    cells = [full] * filled + [rest] * (width - filled)
    if block.exported_density is not None and most:
        cells[min(width - 1, round(block.exported_density / most * width))] = line
    return "".join(cells)


def _share(share: float | None, digits: int = 1) -> str:
    return _NONE if share is None else f"{100 * share:.{digits}f} %"


def _rate(rate: float) -> str:
    return f"{rate:,.1f}/s" if rate < 10 else f"{rate:,.0f}/s"


def _count(number: float | None) -> str:
    return _NONE if number is None else f"{number:,.0f}"


def _scaled(number: float) -> str:
    """Return a number with a unit's prefix, as 1.23 G."""
    size, unit = abs(number), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{'-' if number < 0 else ''}{size:.3g} {_UNITS[unit]}"


def _memory(number: float) -> str:
    return f"{number / 2**20:,.1f} MiB" if number < 2**30 else f"{number / 2**30:,.1f} GiB"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    for bound, unit, name in ((1e-3, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s")):
        if seconds < bound:
            return f"{seconds / unit:.3g} {name}"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
