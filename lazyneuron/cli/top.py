"""`lazyneuron top`."""

import io
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyneuron.cli.connection import connection_options, credentials_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from lazyneuron.cli.top_figures import Figures
    from lazyneuron.scrape import Snapshot

__all__ = ["command"]

_PLAIN_WIDTH = 120
_REDRAWN = 4  # times a second, so that a resized terminal is filled anew


@click.command("top")
@click.argument("url", default="127.0.0.1:8002")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between looks; what rates are of.",
)
@click.option("--once", is_flag=True, help="Look twice, an interval apart, print what was seen and end.")
@click.option("--json", "as_json", is_flag=True, help="As --once, but print one JSON document.")
@connection_options
def command(
    url: str,
    interval: float,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    token_file: Path | None,
    *,
    tls: bool,
    once: bool,
    as_json: bool,
) -> None:
    """Watch a running server: load, latency, and what its models really skip.

    \b
    lazyneuron top
    lazyneuron top https://models.example.org:8002 --token-file token

    URL is the server's HTTP port, as HOST:PORT or a URL. Figures are those of its /metrics: density by block against
    what was exported, the share of the MLP's FLOPs that was saved, and the time, estimated from measured costs.
    """  # noqa: D301  click's mark for lines that stay as they are
    from lazyneuron.scrape import metrics_url, scrape

    credentials = credentials_from(tls=tls, ca=ca, cert=cert, key=key, token_file=token_file)
    address = metrics_url(url, secure=credentials is not None and credentials.secure)

    def look() -> "Snapshot":
        return scrape(address, credentials)

    try:
        if once or as_json:
            _once(address, look, interval, as_json=as_json)
        else:
            _watch(address, look, interval)
    except BrokenPipeError:  # the reader has enough; nothing is to be said, at exit neither
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _once(address: str, look: "Callable[[], Snapshot]", interval: float, *, as_json: bool) -> None:
    from lazyneuron.cli.top_figures import figures

    earlier = look()
    time.sleep(interval)
    found = figures(earlier, look())
    if as_json:
        import json

        click.echo(json.dumps(_document(address, found)))
    else:
        _print(_console(), address, found)


def _watch(address: str, look: "Callable[[], Snapshot]", interval: float) -> None:
    """Show what is seen until somebody stops it; where nobody looks on, print it each time."""
    from rich.live import Live

    from lazyneuron.cli.top_figures import figures
    from lazyneuron.cli.top_view import TopView
    from lazyneuron.scrape import ScrapeError

    latest = look()  # a server that is not there at the start is an error; one that goes is waited for
    view = TopView(address, figures(None, latest), fitted=True)
    console = _console()
    ending = _Ending()
    live = Live(view, console=console, screen=True, refresh_per_second=_REDRAWN) if console.is_interactive else None
    try:
        if live is not None:
            live.start(refresh=True)
        while True:
            try:
                with ending.allowed():
                    time.sleep(interval)
                    earlier, latest = latest, look()
            except ScrapeError as error:
                view.trouble = str(error)
                if live is None:
                    click.echo(f"not up to date: {error}", err=True)
                continue
            view.show(figures(earlier, latest))
            if live is None:
                _print(console, address, view.figures)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if ending.by == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        if live is not None:
            live.stop()


class _Ending:
    """The signals that end a picture: in the midst of a drawing they wait, or the terminal would stay as it is."""

    def __init__(self) -> None:
        self.by: int | None = None
        self._allowed = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:  # noqa: ANN401, ARG002  the signal module's
        self.by = number
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt

    @contextmanager
    def allowed(self) -> "Iterator[None]":
        """Let them interrupt what is done here."""
        self._allowed = True
        try:
            if self.by is not None:
                raise KeyboardInterrupt
            yield
        finally:
            self._allowed = False


def _console() -> "Console":
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # where the terminal's encoding lacks a sign
    console = Console(highlight=False)
    return console if console.is_interactive else Console(highlight=False, width=_PLAIN_WIDTH)


def _print(console: "Console", address: str, found: "Figures") -> None:
    from lazyneuron.cli.top_view import TopView

    with console.capture() as captured:
        console.print(TopView(address, found, fitted=False))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _document(address: str, found: "Figures") -> dict[str, Any]:
    """Return the figures as JSON takes them."""
    from dataclasses import asdict

    return {"url": address, **asdict(found)}
