"""How a model is best run on this machine, measured: how many sessions and threads, and how many batches at once.

Each setting gets the same closed loop of requests, made from the manifest, through the real scheduler. What was
measured is kept, one file a model and machine, so that the next start does not measure again.
"""

import asyncio
import hashlib
import logging
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from lazyneuron.engine.artifact import Manifest, read_manifest, resolve_version
from lazyneuron.engine.documents import read_document, write_text
from lazyneuron.engine.errors import ConfigurationError, LazyneuronError
from lazyneuron.engine.machine import Machine, cache_folder, this_machine
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import made_inputs, made_lengths
from lazyneuron.engine.requests import Request
from lazyneuron.engine.session import usable_cores
from lazyneuron.server.config import QueueConfig, ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.scheduler import Scheduler

__all__ = ["Measured", "Setting", "Tuner", "candidates", "made_requests"]

_log = logging.getLogger(__name__)

TUNING_FORMAT = 1
_IN_FLIGHT = 32
"""Requests of the closed loop: enough for batches to fill, and no more than a server sees."""
_LENGTHS = (16, 32, 64, 128)
_KINDS = 8
_PATIENCE = 3600.0  # seconds: here nothing is refused
_WARM = 0.25  # the share of the time that is not counted
_MEMORY_SHARE = 0.5  # of the memory that is free, for copies of a model's weights


class Setting(BaseModel):
    """One way to run a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    instances: int = Field(ge=1)
    """Sessions, each with its own copy of the weights."""
    threads: int = Field(ge=1)
    """Intra-op threads of each."""
    concurrency: int = Field(ge=1)
    """Batches at the same time, over all sessions."""

    def __str__(self) -> str:
        sessions = "1 session" if self.instances == 1 else f"{self.instances} sessions"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{sessions} of {threads}, {self.concurrency} at a time"


class Measured(BaseModel):
    """What a setting gave."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Setting
    tokens_per_second: float = Field(ge=0)
    requests_per_second: float = Field(ge=0)
    median_seconds: float = Field(ge=0)
    """Of a request, from `Scheduler.submit` to its answer."""


class _Tuning(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int
    model: str
    version: int
    digest: str
    machine: Machine
    cores: int
    measured: tuple[Measured, ...] = Field(min_length=1)

    @property
    def best(self) -> Measured:
        return max(self.measured, key=lambda m: m.tokens_per_second)


class Tuner:
    """Finds the best setting for each model of a server.

    Parameters
    ----------
    config
        The server's settings: the batches are as it will make them.
    folder
        Where what was measured is kept; None: in the user's cache folder.
    """

    def __init__(self, config: ServerConfig, folder: Path | None = None) -> None:
        self._config = config
        self._folder = folder or cache_folder() / "tuning"

    def setting(self, path: Path) -> Setting:
        """Return the best setting for a model, measured unless it was before.

        Parameters
        ----------
        path
            A model's folder, or a version's.

        Raises
        ------
        ArtifactError
            If the artifact cannot be read.
        LazyneuronError
            If it cannot be run.
        """
        folder = resolve_version(path)
        manifest = read_manifest(folder)
        file = self._folder / f"{_key(manifest)}.json"
        tuning = self._kept(file)
        if tuning is None:
            tuning = self._measure(folder, manifest)
            self._keep(tuning, file)
            _log.info("%s version %d, measured:\n%s", manifest.name, manifest.version, _table(tuning))
        else:
            _log.info("%s version %d, from %s:\n%s", manifest.name, manifest.version, file, _table(tuning))
        return tuning.best.setting

    def _measure(self, folder: Path, manifest: Manifest) -> _Tuning:
        size = sum(entry.bytes for entry in manifest.files.values())
        settings = candidates(usable_cores(), _copies(size))
        _log.info(
            "%s: measuring %d settings, about %.0f s", manifest.name, len(settings), len(settings) * self._seconds
        )
        return _Tuning(
            format_version=TUNING_FORMAT,
            model=manifest.name,
            version=manifest.version,
            digest=_digest(manifest),
            machine=this_machine(),
            cores=usable_cores(),
            measured=tuple(self._try(folder, setting) for setting in settings),
        )

    @property
    def _seconds(self) -> float:
        return self._config.tuning_seconds

    def _try(self, folder: Path, setting: Setting) -> Measured:
        model = Model.load(
            folder,
            threads=setting.threads,
            instances=setting.instances,
            concurrency=setting.concurrency,
            verify=False,  # once, when it is loaded to be served
        )
        tokens, taken, seconds = asyncio.run(_load(model, self._config, self._seconds))
        return Measured(
            setting=setting,
            tokens_per_second=tokens / seconds,
            requests_per_second=len(taken) / seconds,
            median_seconds=statistics.median(taken) if taken else 0.0,
        )

    def _kept(self, file: Path) -> _Tuning | None:
        if not file.is_file():
            return None
        try:
            return read_document(file, _Tuning, TUNING_FORMAT, ConfigurationError, what="tuning", missing="")
        except ConfigurationError as error:
            _log.warning("%s; measuring again", error)
            return None

    def _keep(self, tuning: _Tuning, file: Path) -> None:
        try:
            write_text(file, tuning.model_dump_json(indent=2) + "\n")
        except OSError as error:  # a read-only home must not stop the server
            _log.warning("%s: what was measured is not kept: %s", file, error.strerror or error)


def candidates(cores: int, copies: int) -> list[Setting]:
    """Return the settings that are worth a try.

    One session over all cores, one batch or two at a time; and for each way to divide the cores, one session that as
    many threads call at once, and that many sessions.

    Parameters
    ----------
    cores
        What there is to use.
    copies
        How many copies of the model fit in memory.
    """
    settings = [Setting(instances=1, threads=cores, concurrency=n) for n in (1, 2)]
    parts = 2
    while parts <= cores:
        threads = cores // parts
        settings.append(Setting(instances=1, threads=threads, concurrency=parts))
        if parts <= copies:
            settings.append(Setting(instances=parts, threads=threads, concurrency=parts))
        parts = parts * 2 if parts * 2 <= cores or parts == cores else cores
    return settings


def made_requests(model: Model, *, seed: int = 0) -> list[Request]:
    """Make requests that fit a model's manifest, of one example each and of several lengths.

    Raises
    ------
    InputError
        If none of the lengths fits the model.
    """
    manifest = model.manifest
    requests: list[Request] = []
    refused: LazyneuronError | None = None
    for number in range(_KINDS):
        _, lone = made_lengths(manifest, _LENGTHS[number % len(_LENGTHS)])
        try:
            requests.append(model.request(made_inputs(manifest.inputs, lone, seed=seed + number)))
        except LazyneuronError as error:
            refused = error
    if not requests:
        assert refused is not None
        raise refused
    return requests


async def _load(model: Model, config: ServerConfig, seconds: float) -> tuple[int, list[float], float]:
    """Run a closed loop. Return the tokens answered, each request's seconds, and over how long."""
    patient = ServerConfig(batching=config.batching, queue=QueueConfig(max_wait_seconds=_PATIENCE))
    scheduler = Scheduler(model, patient, Metrics())
    requests = made_requests(model)
    taken: list[float] = []
    tokens = 0
    begun = time.monotonic()
    counted_from, ends = begun + seconds * _WARM, begun + seconds

    async def one(number: int) -> None:
        nonlocal tokens
        while (started := time.monotonic()) < ends:
            request = requests[number % len(requests)]
            number += 1
            await scheduler.submit(request)
            now = time.monotonic()
            if counted_from <= now:
                tokens += request.tokens
                taken.append(now - started)

    try:
        await asyncio.gather(*(one(number) for number in range(_IN_FLIGHT)))
    finally:
        scheduler.close()
    return tokens, taken, time.monotonic() - counted_from


def _digest(manifest: Manifest) -> str:
    """Return the digest of the artifact's files."""
    lines = [f"{name} {entry.sha256}" for name, entry in sorted(manifest.files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _key(manifest: Manifest) -> str:
    parts = (_digest(manifest), this_machine().model_dump_json(), str(usable_cores()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _copies(size: int) -> int:
    """Return how many copies of so many bytes fit in the memory that is free, one at least."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 1
    return max(1, int(free * _MEMORY_SHARE) // max(size, 1))


def _table(tuning: _Tuning) -> str:
    rows: Sequence[tuple[str, Callable[[Measured], str]]] = (
        ("setting", lambda m: str(m.setting)),
        ("tokens/s", lambda m: f"{m.tokens_per_second:,.0f}"),
        ("requests/s", lambda m: f"{m.requests_per_second:,.0f}"),
        ("median ms", lambda m: f"{m.median_seconds * 1e3:.2f}"),
        ("", lambda m: "<- taken" if m is tuning.best else ""),
    )
    cells = [[name for name, _ in rows]] + [[show(m) for _, show in rows] for m in tuning.measured]
    widths = [max(len(line[i]) for line in cells) for i in range(len(rows))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    ]
    return "\n".join(f"  {line}" for line in lines)
