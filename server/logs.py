"""The log: lines for people or JSON, to standard error, and never in the way of serving.

Whoever logs puts a record in a bounded queue and goes on; one thread writes. A full disk, a pipe that nobody reads or
a storm of lines costs lines, which are counted, and nothing else.
"""

import contextlib
import copy
import logging
import os
import queue
import select
import sys
import threading
from logging.handlers import QueueHandler
from types import TracebackType
from typing import Any

import onnxruntime
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from lazyneuron.server.calls import call_or_none
from lazyneuron.server.config import LogConfig

__all__ = ["LogOutput"]

_log = logging.getLogger(__name__)

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_FATAL = 4  # of ONNX Runtime's severities
_FLUSH_SECONDS = 2.0
_QUIET = ("uvicorn", "uvicorn.error", "asyncio")  # what clients do wrong is told by our own lines, if at all
_RESERVED = {*RESERVED_ATTRS, "message", "asctime", "taskName"}
# A client's text must not be able to begin a line of its own, or move the cursor of whoever reads.
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


class LogOutput:
    """The process's log, from `with` on; after it, what waits has been written if that was possible in two seconds.

    Parameters
    ----------
    config
        Format, level and how many lines may wait.
    file
        A file descriptor; None: standard error's.
    """

    def __init__(self, config: LogConfig, file: int | None = None) -> None:
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(config.max_waiting)
        self._handler = _Enqueue(self._waiting)
        self._formatter = _json() if config.format == "json" else _Text(_TEXT)
        # A descriptor of our own: Python's `sys.stderr` has a lock, which a blocked writer would hold at exit.
        self._file = os.dup(sys.__stderr__.fileno() if file is None and sys.__stderr__ is not None else file or 2)
        self._unwritten = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._level = config.level

    @property
    def dropped(self) -> int:
        """The lines that nobody will read, so far."""
        return self._handler.dropped + self._unwritten

    def set_level(self, level: str) -> None:
        """Write what is at least this severe: `debug`, `info`, `warning` or `error`."""
        logging.getLogger().setLevel(level.upper())

    def __enter__(self) -> "LogOutput":
        root = logging.getLogger()
        self._before = root.handlers[:], root.level
        root.handlers[:] = [self._handler]
        self.set_level(self._level)
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.captureWarnings(capture=True)
        # Its lines go past us, one for each request that fails in it, which the exception tells as well.
        onnxruntime.set_default_logger_severity(_FATAL)
        threading.excepthook, sys.unraisablehook = _log_thread_error, _log_unraisable
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.flush()
        if not self._thread.is_alive():  # otherwise it is still writing
            os.close(self._file)
        root = logging.getLogger()
        root.handlers[:], level = self._before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
        threading.excepthook, sys.unraisablehook = threading.__excepthook__, sys.__unraisablehook__

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Let the writer come to its end; give up on it after a while."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
            self._thread.join(seconds)

    def _write(self) -> None:
        told = 0
        while (record := self._waiting.get()) is not None:
            try:
                self._put(self._formatter.format(record))
                if self.dropped > told:
                    told, lost = self.dropped, self.dropped - told
                    note = _log.makeRecord(
                        __name__, logging.WARNING, "", 0, "%d lines of the log were lost", (lost,), None, extra=None
                    )
                    self._put(self._formatter.format(note))
            except Exception:  # noqa: BLE001  a full disk, or a record that cannot be formatted: the next may be written
                self._unwritten += 1

    def _put(self, line: str) -> None:
        data = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while data:
            try:
                data = data[os.write(self._file, data) :]
            except BlockingIOError:  # whoever shares the pipe made it so
                select.select([], [self._file], [])


class _Enqueue(QueueHandler):
    """Puts records in the queue, or counts what finds no room."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Make the record independent of what it was made from, and note which request it is about."""
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        call = call_or_none()
        if call is not None and not hasattr(record, "request_id"):
            record.request_id = call.id
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Count what finds no room."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  logging's name
        """Count what cannot be prepared; logging itself would write to standard error."""
        self.dropped += 1


class _Text(logging.Formatter):
    """One line, with the record's further fields behind it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of their own, indented."""
        record = copy.copy(record)
        record.msg = record.msg.translate(_ESCAPED)
        text, trace = record.exc_text, record.exc_text
        record.exc_text = None
        text = super().format(record)
        found = {name: value for name, value in vars(record).items() if name not in _RESERVED and value is not None}
        text += "".join(f" {name}={_shown(value)}" for name, value in found.items())
        if trace:
            text += "".join(f"\n  {line.translate(_ESCAPED)}" for line in trace.split("\n"))
        return text


def _shown(value: Any) -> str:  # noqa: ANN401  any field's
    if isinstance(value, float):
        return f"{value:.6f}"
    text = str(value).translate(_ESCAPED)
    return repr(text) if " " in text or not text else text


def _json() -> JsonFormatter:
    return JsonFormatter(
        ("levelname", "name", "message"),
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        reserved_attrs=sorted(_RESERVED),
        json_ensure_ascii=False,
    )


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        name = args.thread.name if args.thread is not None else "?"
        _log.error("thread %s failed", name, exc_info=args.exc_value)


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    _log.error("%s %r", args.err_msg or "an exception was ignored in", args.object, exc_info=args.exc_value)
