"""`lazyneuron predict --file`: many requests from a file or standard input, their answers as JSON Lines.

A line that fails is told, keeps its place in the answers, and does not stop the others.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import click
import numpy as np
from numpy.typing import NDArray

from lazyneuron.client import Client, Inputs, ModelInfo, ServedPrediction
from lazyneuron.engine.errors import InputError, LazyneuronError, ServingError, one_line
from lazyneuron.exporters.progress import progress_on

__all__ = ["Job", "predict_file"]

_STANDARD = "-"
_RETURN_SECONDS = 20.0  # what a server that has gone has to come back, as in a restart
_NOT_INPUTS = {"label", "labels"}  # what a calibration file may have beside the inputs
_Array = NDArray[np.generic]
_Line = tuple[int, Inputs | LazyneuronError]
"""A line's number, from 1, and what it holds; of an .npz the example's."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked.

    Attributes
    ----------
    name
        The model.
    file
        JSON Lines or an .npz file; `-` is standard input.
    output
        Where the answers go; `-` is standard output.
    concurrency
        Requests under way at the same time.
    version, budget, timeout, top, quality, outputs
        As of `Client.predict`, for each request.
    resume
        Whether to go on from an earlier run that was stopped, and to leave what is done when this one is.
    """

    name: str
    file: str
    output: str
    concurrency: int
    version: int | None
    budget: float
    timeout: float | None
    top: int
    quality: str | None
    outputs: bool
    resume: bool


def predict_file(client: Client, job: Job, document: Callable[[ServedPrediction], dict[str, Any]]) -> int:
    """Run every line of the job's file and write the answers. Return how many lines failed.

    Parameters
    ----------
    client
        The server.
    job
        What is asked.
    document
        Makes the JSON of an answer.

    Raises
    ------
    InputError
        If the file cannot be read at all.
    LazyneuronError
        If the server cannot be reached, or has no such model.
    """
    info = client.model(job.name, job.version, job.timeout)
    lines, total = _read(job.file, info)
    failed = 0
    with _writing(job) as (target, done), progress_on(sys.stderr) as progress:
        progress.step(f"predicting {job.file if job.file == _STANDARD else Path(job.file).name}", total)
        for number, outcome in _outcomes(client, job, _after(lines, done, progress.advance)):
            if isinstance(outcome, LazyneuronError):
                if type(outcome) is ServingError:  # is there a server still? Otherwise every line would wait for one
                    client.wait_until_ready(_RETURN_SECONDS)
                failed += 1
                click.echo(f"line {number}: {one_line(outcome)}", err=True)
                answer = {"line": number, "error": {"kind": type(outcome).__name__, "message": str(outcome)}}
            else:
                answer = {"line": number} | document(outcome)
            target.write(json.dumps(answer) + "\n")
            progress.advance()
    return failed


def _outcomes(
    client: Client, job: Job, lines: Iterator[_Line]
) -> Iterator[tuple[int, ServedPrediction | LazyneuronError]]:
    """Give every line's answer or error, in the lines' order."""
    asked: deque[tuple[int, LazyneuronError | None]] = deque()

    def inputs() -> Iterator[Inputs]:
        for number, line in lines:
            if isinstance(line, LazyneuronError):
                asked.append((number, line))
            else:
                asked.append((number, None))
                yield line

    options: dict[str, Any] = {"concurrency": job.concurrency, "top": job.top, "outputs": job.outputs}
    options["quality"] = job.quality
    answers = client.predict_many(job.name, inputs(), job.version, job.budget, job.timeout, errors="return", **options)
    for answer in answers:
        while (wrong := asked[0])[1] is not None:
            asked.popleft()
            yield wrong[0], wrong[1]
        yield asked.popleft()[0], answer
    yield from ((number, error) for number, error in asked if error is not None)


def _after(lines: Iterator[_Line], last: int, skipped: Callable[[], None]) -> Iterator[_Line]:
    for number, line in lines:
        if number > last:
            yield number, line
        else:
            skipped()


def _read(file: str, info: ModelInfo) -> tuple[Iterator[_Line], int | None]:
    """Return the lines and, where it is known, their number."""
    if file == _STANDARD:
        return _parsed(_open("--file", sys.stdin).buffer, Path(), info), None
    path = Path(file)
    try:
        if path.suffix == ".npz":
            return _read_npz(path, info)
        with path.open("rb") as stream:
            total = sum(1 for line in stream if line.strip())
    except OSError as error:
        expected = "JSON Lines or an .npz file"
        raise InputError("--file", got=f"{path} ({error.strerror})", expected=expected) from None

    def lines() -> Iterator[_Line]:
        with path.open("rb") as stream:
            yield from _parsed(stream, path.parent, info)

    return lines(), total


def _read_npz(path: Path, info: ModelInfo) -> tuple[Iterator[_Line], int]:
    expected = "an .npz file of arrays by input name, one row an example"
    try:
        # No pickles: a file of them could run code.
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError("--file", got=f"{path}, a single array", expected=expected)
        with file:
            arrays: dict[str, _Array] = {name: file[name] for name in file.files if name not in _NOT_INPUTS}
    except (OSError, InputError):
        raise
    except Exception as error:  # noqa: BLE001  numpy, zipfile and zlib raise half a dozen kinds
        raise InputError("--file", got=f"{path} ({one_line(error)})", expected=expected) from None
    counts = {len(array) if array.ndim else -1 for array in arrays.values()}
    if len(counts) != 1 or -1 in counts:
        got = f"{path}, with " + (", ".join(f"{n} {list(a.shape)}" for n, a in arrays.items()) or "no array")
        raise InputError("--file", got=got, expected="arrays of one length, an example a row")
    count = counts.pop()

    def lines() -> Iterator[_Line]:
        for index in range(count):
            example = {name: array[index] for name, array in arrays.items()}
            try:
                yield index + 1, _arrays(example, info)
            except LazyneuronError as error:
                yield index + 1, error

    return lines(), count


def _parsed(stream: BinaryIO, folder: Path, info: ModelInfo) -> Iterator[_Line]:
    """Give each line's number and input; the names of image files are as seen from `folder`."""
    for number, line in enumerate(stream, 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not text.strip():
            continue
        try:
            yield number, _input(text, folder, info)
        except LazyneuronError as error:
            yield number, error


def _input(line: bytes, folder: Path, info: ModelInfo) -> Inputs:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError("the line", got=f"no JSON ({error})", expected="one JSON document") from None
    match document:
        case {"text": str(text)}:
            return text
        case {"image": str(name)}:
            return folder / name
        case {"inputs": dict(given)}:
            return _arrays(given, info)
    got = f"keys {sorted(document)}" if isinstance(document, dict) else type(document).__name__
    expected = '{"text": "…"}, {"image": "FILE"} or {"inputs": {name: list}}'
    raise InputError("the line", got=got, expected=expected)


def _arrays(given: dict[str, Any], info: ModelInfo) -> dict[str, _Array]:
    """Return one example's arrays as the model takes them: of its types, and with a batch axis."""
    specs = {spec.name: spec for spec in info.inputs}
    arrays = {}
    for name, value in given.items():
        try:
            array = np.asarray(value)
        except ValueError:
            raise InputError(name, got="lists of unequal lengths", expected="an array") from None
        spec = specs.get(name)
        if spec is not None and spec.dtype is not None:
            whole = array.dtype.kind in "iu" and spec.dtype.kind == "b"
            if not whole and not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise InputError(name, got=f"values of dtype {array.dtype}", expected=str(spec.dtype))
            if spec.dtype.kind in "iu" and array.size and array.dtype != spec.dtype:
                bounds = np.iinfo(spec.dtype.name)
                if array.min() < bounds.min or array.max() > bounds.max:
                    raise InputError(name, got=f"{array.min()} to {array.max()}", expected=str(spec.dtype))
            with np.errstate(over="ignore"):  # infinity, which the server refuses in words
                array = array.astype(spec.dtype, copy=False)
            if array.ndim == len(spec.shape) - 1:
                array = array[None]
        arrays[name] = array
    return arrays


@contextmanager
def _writing(job: Job) -> Iterator[tuple[TextIO, int]]:
    """Give where answers are written, and the last line that an earlier run has written there.

    A file gets its name when all is written; until then it is a hidden one beside it, which is removed when the work is
    stopped, or kept for `--resume`.
    """
    if job.output == _STANDARD:
        try:
            yield _open("--output", sys.stdout), 0
            sys.stdout.flush()
        except BrokenPipeError:  # the reader has enough; nothing is to be said, at exit neither
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        return
    target = Path(job.output)
    if target.is_dir():  # told now, not when all is done
        raise InputError("--output", got=f"{target}, a folder", expected="a file")
    temporary = target.with_name(f".{target.name}.partial")
    done = _done(temporary, job) if job.resume else 0
    finished = False
    try:
        # Line by line, so that --resume finds them after a kill, too.
        with temporary.open("a" if done else "w", buffering=1, encoding="utf-8") as stream:
            yield stream, done
        finished = True
        temporary.replace(target)
    finally:
        if not finished and not job.resume:
            temporary.unlink(missing_ok=True)
        elif not finished:
            click.echo(f"what is done is kept in {temporary}; the same command goes on from there", err=True)


def _open(option: str, stream: TextIO | None) -> TextIO:
    if stream is None:
        raise InputError(option, got="a standard stream that is closed", expected="an open one, or a file")
    return stream


def _done(temporary: Path, job: Job) -> int:
    """Return the last line that an earlier run wrote whole; what it wrote after that is cut off."""
    if not temporary.is_file():
        return 0
    last, end = 0, 0
    with temporary.open("r+b") as stream:
        for line in stream:
            try:
                answer = json.loads(line)
                number, name = int(answer["line"]), answer.get("model", job.name)
            except (ValueError, TypeError, KeyError, AttributeError):
                break
            if not line.endswith(b"\n"):
                break
            if name != job.name:
                got, expected = f"{temporary} with answers of {name}", f"answers of {job.name}; remove it to begin anew"
                raise InputError("--resume", got=got, expected=expected)
            last, end = number, end + len(line)
        stream.truncate(end)
    return last
