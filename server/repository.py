"""The models' life: which versions are served, and how one takes another's place.

Everything here runs on the event loop except scans of the folder and loading, which have a thread of their own each.
For each model one thing is done at a time, in the order in which it was asked for; over all models one version is
loaded at a time, so that what is reckoned against the memory limit is known.
"""

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from lazyneuron.engine.artifact import MANIFEST_FILE
from lazyneuron.engine.errors import (
    ArtifactError,
    LazyneuronError,
    ModelLoadError,
    ModelNotFoundError,
    ModelUnavailableError,
)
from lazyneuron.engine.model import Model
from lazyneuron.engine.signature import read_trusted
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.devices import Devices
from lazyneuron.server.folders import Found, Scan, Scanner
from lazyneuron.server.loading import Loaded, Refused, give_back, load_version
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.served import ServedModel
from lazyneuron.server.tuning import Tuner

__all__ = ["Entry", "Repository", "State"]

_log = logging.getLogger(__name__)

_COUNTERS_STAY = 600.0
"""Seconds that an unloaded version's counters are shown still, so that whoever reads them at times misses nothing."""

_T = TypeVar("_T")

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
"""The Open Inference Protocol's words for where a version is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index.

    Attributes
    ----------
    name, version
        Which; the version is empty where a folder is no model at all.
    state
        Where it is in its life.
    reason
        Why it is not served, or why a newer copy of it is not; else empty.
    """

    name: str
    version: str
    state: State
    reason: str = ""


@dataclass(eq=False)
class _Slot:
    """A version that is loaded."""

    fingerprint: Hashable
    found: Found
    served: ServedModel
    memory: int
    device_memory: Mapping[str, int]


@dataclass(frozen=True)
class _Refusal:
    """A version that cannot be served as it is; it is tried again once it changes, or when a client asks."""

    fingerprint: Hashable
    reason: str
    needs: int = 0
    """Bytes: it is tried again once so many are free. 0: not because of memory."""


@dataclass
class _State:
    """One model."""

    name: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    slots: dict[int, _Slot] = field(default_factory=dict)
    refused: dict[int, _Refusal] = field(default_factory=dict)
    draining: dict[_Slot, asyncio.Task[None]] = field(default_factory=dict)
    loading: int | None = None
    settled: dict[int, Hashable] | None = None
    """What the folder held when it was last seen to; None: never."""
    queued: bool = False
    held: bool = False
    """A client has unloaded it: nothing but a client loads it again."""


class Repository:
    """The models of a folder, kept as the folder and the clients say.

    Parameters
    ----------
    path
        A folder of models, one model's, or one version's.
    config
        The server's settings.
    metrics
        Where loads are counted.
    serve
        Gives a loaded model its queue.
    changed
        Told the name of a model that has begun or ceased to take requests.
    devices
        Where the models run; None: on the CPU.

    Raises
    ------
    ConfigurationError
        If a trusted key cannot be read.
    """

    def __init__(
        self,
        path: Path,
        config: ServerConfig,
        metrics: Metrics,
        serve: Callable[[Model], ServedModel],
        changed: Callable[[str], None] = lambda _: None,
        *,
        devices: Devices | None = None,
    ) -> None:
        self.path = path
        self._config = config.repository
        self._threads = config.threads
        self._devices = devices or Devices()
        self._tuner = Tuner(config) if config.auto_tune and not self._devices.on_gpu else None
        self._trusted = read_trusted([Path(file) for file in self._config.trusted_keys])
        self._metrics = metrics
        self._serve = serve
        self.changed = changed
        self._scanner = Scanner(path)
        self._scan = Scan()
        self._scanning: Future[Scan] | None = None
        self._trouble = ""
        self._states: dict[str, _State] = {}
        self._looking = asyncio.Lock()
        self._loading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._scans = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        if self._devices.on_gpu:
            metrics.gpu_memory(self._gpu_memory)
        self._count = {"latest": 1, "all": sys.maxsize}.get(str(self._config.versions)) or int(self._config.versions)

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded, or the folder read, in a thread that cannot be interrupted."""
        return self._loading.locked() or (self._scanning is not None and self._scanning.running())

    async def start(self) -> None:
        """Load what is there.

        Raises
        ------
        ArtifactError
            If no model can be loaded.
        """
        await self._look(first=True)
        await asyncio.gather(*(self._settle(self._state(name)) for name in self._scan.models))
        if not any(state.slots for state in self._states.values()):
            reasons = "; ".join(entry.reason for entry in self.index() if entry.reason)
            raise ArtifactError(
                reasons or f"{self.path}: no model in it; expected NAME/VERSION/{MANIFEST_FILE}, as from export"
            )

    def find(self, name: str, version: int | None = None) -> ServedModel:
        """Return a version that takes requests, the highest if none is named.

        It is sure to stay loaded only until the caller next awaits something; `ServedModel.in_use` keeps it.

        Raises
        ------
        ModelNotFoundError
            Naming the models, or the versions, that there are.
        ModelUnavailableError
            If the model is being loaded and nothing of it is served meanwhile.
        """
        state = self._states.get(name)
        slots = state.slots if state is not None else {}
        if state is not None and not slots and state.loading is not None:
            raise ModelUnavailableError(f"{name} version {state.loading} is being loaded; try again")
        if not slots:
            there = ", ".join(sorted(n for n, s in self._states.items() if s.slots)) or "none"
            why = next((f" ({e.reason})" for e in self._entries(name) if e.reason), "")
            raise ModelNotFoundError(f"no model named {name[:80]!r}{why}; the server has: {there}")
        slot = slots.get(max(slots) if version is None else version)
        if slot is None:
            there = ", ".join(map(str, sorted(slots)))
            raise ModelNotFoundError(f"{name} has no version {version}; the server has: {there}")
        return slot.served

    def served(self) -> list[ServedModel]:
        """Return all versions that take requests, by name and version."""
        return [self._states[n].slots[v].served for n in sorted(self._states) for v in sorted(self._states[n].slots)]

    def index(self) -> list[Entry]:
        """Return every version that is loaded or lies in the folder, with its state; and what is no model."""
        names = sorted({*self._states, *self._scan.models, *self._scan.broken})
        return [entry for name in names for entry in self._entries(name)]

    def troubles(self) -> list[str]:
        """Return in a sentence each what a person should look at: refused versions, an unreadable folder."""
        told = [f"{self._trouble}; what was loaded is served still"] if self._trouble else []
        for name, state in sorted(self._states.items()):
            told += [f"{name} {version}: not served: {r.reason}" for version, r in sorted(state.refused.items())]
        return told + [f"{name}: not served: {reason}" for name, reason in sorted(self._scan.broken.items())]

    async def load(self, name: str) -> None:
        """Serve a model as the folder has it now; versions that were refused before are tried again.

        Cancelling the call does not stop the loading.

        Raises
        ------
        ModelNotFoundError
            If the folder has no such model.
        ModelLoadError
            If a version that the policy asks for cannot be served.
        """
        await self._look()
        if self._trouble:
            raise ModelLoadError(self._trouble)
        if name not in self._scan.models:
            why = f" ({self._scan.broken[name]})" if name in self._scan.broken else ""
            there = ", ".join(sorted(self._scan.models)) or "none"
            raise ModelNotFoundError(f"no model named {name[:80]!r}{why}; the repository has: {there}")
        state = self._state(name)
        state.held = False
        refused = await asyncio.shield(self._task(self._settle(state, again=True)))
        if state.held:
            raise ModelLoadError(f"{name} has been unloaded by a later call")
        if refused:
            version, reason = refused[0]
            served = ", ".join(map(str, sorted(state.slots)))
            still = f"; version {served} is served" if served else ""
            raise ModelLoadError(f"{name} version {version} cannot be served: {reason}{still}")

    async def unload(self, name: str) -> None:
        """Take a model out of service until a client loads it again; return when its memory is free.

        What it has admitted is answered. Cancelling the call does not stop the unloading.

        Raises
        ------
        ModelNotFoundError
            If the server knows no such model.
        """
        state = self._states.get(name)
        if state is None or not (state.slots or state.draining or name in self._scan.models):
            there = ", ".join(sorted(n for n, s in self._states.items() if s.slots)) or "none"
            raise ModelNotFoundError(f"no model named {name[:80]!r}; the server has: {there}")
        state.held = True
        await asyncio.shield(self._task(self._empty(state)))

    async def rescan(self) -> None:
        """Look at the folder and see to every model that has changed in it; return before they are loaded."""
        await self._look()
        if self._trouble:
            return
        for name in {*self._scan.models, *self._states}:
            state = self._state(name)
            if self._fingerprints(name) != (state.settled or {}):
                self._see_to(state)

    async def stop(self) -> None:
        """Begin nothing new; return when every admitted request is answered."""
        self._stopping = True
        served = [slot.served for state in self._states.values() for slot in (*state.slots.values(), *state.draining)]
        await asyncio.gather(*(each.drain() for each in served))

    def close(self) -> None:
        """Let all threads end."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for state in self._states.values():
            for slot in state.slots.values():
                slot.served.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._scans.shutdown(wait=False, cancel_futures=True)

    # The folder

    async def _look(self, *, first: bool = False) -> None:
        """Scan the folder. One that has gone, or has no model of a sudden, says nothing about what shall be served."""
        async with self._looking:
            try:
                self._scanning = self._scans.submit(self._scanner.scan)
                scan = await asyncio.wrap_future(self._scanning)
            except ArtifactError as error:
                if first:
                    raise
                self._note_trouble(str(error))
                return
            if not scan.models and any(state.slots for state in self._states.values()):
                self._note_trouble(f"{self.path}: no model in it any more")
                return
            self._note_trouble("")
            earlier, self._scan = self._scan, scan
            for name in scan.broken.keys() - earlier.broken.keys():
                _log.error("%s is not served: %s", name, scan.broken[name])
            for name in scan.broken.keys() ^ earlier.broken.keys():
                self.changed(name)

    def _note_trouble(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            _log.error("%s; what was loaded is served still", trouble)
        if self._trouble and not trouble:
            _log.info("%s: it can be read again", self.path)
        self._trouble = trouble
        self._metrics.repository_reachable.set(0 if trouble else 1)

    def _fingerprints(self, name: str) -> dict[int, Hashable]:
        return {version: found.fingerprint for version, found in self._scan.models.get(name, {}).items()}

    # One model: what shall be served of it, and bringing that about

    def _state(self, name: str) -> _State:
        return self._states.setdefault(name, _State(name))

    def _see_to(self, state: _State) -> None:
        """Have a model settled once what is being done with it is done; once is enough, however often it is asked."""
        if not state.queued and not self._stopping:
            state.queued = True
            self._task(self._settle(state))

    async def _settle(self, state: _State, *, again: bool = False) -> list[tuple[int, str]]:
        """Serve of a model what the folder and the policy say, and return the versions that cannot be, highest first.

        The highest versions are taken; one that cannot be served makes room for the next lower one. A version leaves
        only when those that are wanted are there, or when its model has left the folder.

        Parameters
        ----------
        again
            Whether to try those, too, that were refused before.
        """
        async with state.lock:
            state.queued = False
            found = self._scan.models.get(state.name, {})
            state.settled = self._fingerprints(state.name)
            if state.held or self._stopping:
                return []
            await self._drained(state)  # never are more than two generations of a model in memory
            for version in state.refused.keys() - found.keys():
                self._forget_later(state, version)
            known = {} if again else state.refused
            state.refused = {v: r for v, r in known.items() if v in found and r.fingerprint == found[v].fingerprint}
            chosen: set[int] = set()
            for version in sorted(found, reverse=True):
                if len(chosen) >= self._count or state.held or self._stopping:
                    break
                loaded = state.slots[version].fingerprint if version in state.slots else None
                if loaded != found[version].fingerprint and version not in state.refused:
                    await self._bring_up(state, version, found[version])
                if version in state.slots:
                    chosen.add(version)
            if chosen or (not found and not self._unreadable(state)):
                for version in state.slots.keys() - chosen:
                    self._retire(state, version)
            return sorted(((version, refusal.reason) for version, refusal in state.refused.items()), reverse=True)

    def _unreadable(self, state: _State) -> bool:
        """Say whether a model is only not found because its folder cannot be read."""
        return any(slot.found.folder.parent in self._scan.unreadable for slot in state.slots.values())

    async def _bring_up(self, state: _State, version: int, found: Found) -> None:
        """Load a version and let it take traffic, or note why not."""
        state.loading = version
        try:
            async with self._loading:
                result = await self._load(state, version, found)
                if (
                    isinstance(result, Refused)
                    and self._config.drain_first
                    and self._fits_alone(state, version, result)
                ):
                    await self._replace(state, version, found)
                else:
                    self._put(state, version, found, result)
        finally:
            state.loading = None

    async def _replace(self, state: _State, version: int, found: Found) -> None:
        """Load a version in place of the served ones, since it has no room beside them; on failure load those again."""
        earlier = {
            number: slot.found for number, slot in state.slots.items()
        }  # not the slots: they would stay in memory
        _log.info("%s: draining version %s first, to make room", state.name, ", ".join(map(str, sorted(earlier))))
        for number in earlier:
            self._retire(state, number)
        await self._drained(state)
        result = await self._load(state, version, found)
        if isinstance(result, Refused):
            result = replace(result, needs=0)  # room is made for it no second time
        self._put(state, version, found, result)
        if isinstance(result, Refused):
            for number, place in sorted(earlier.items(), reverse=True):
                self._put(state, number, place, await self._load(state, number, place))

    async def _load(self, state: _State, version: int, found: Found) -> Loaded | Refused:
        lately = state.slots[max(state.slots)].served.lately if state.slots else ()
        shapes = {tuple(sorted(axes.items())): axes for axes in lately}
        call = partial(
            load_version,
            state.name,
            version,
            found,
            free=self._free_memory(),
            threads=self._threads,
            tuner=self._tuner,
            devices=self._devices,
            trusted=self._trusted,
            shapes=list(shapes.values()),
            copies=Path(self._config.copies) if self._config.copies is not None else None,
        )
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._thread, call)
        if isinstance(result, Loaded):  # here, since the first time takes long
            await loop.run_in_executor(self._thread, self._metrics.estimates.of, result.model.manifest)
        return result

    def _put(self, state: _State, version: int, found: Found, result: Loaded | Refused) -> None:
        """Switch a version in, from one request to the next, and its earlier copy out; or note why it is refused."""
        labels = (state.name, str(version))
        if isinstance(result, Refused):
            self._metrics.loads.labels(*labels, result.step).inc()
            state.refused[version] = _Refusal(found.fingerprint, result.reason, result.needs)
            _log.error("%s version %d is not served: %s", state.name, version, result.reason)
            self.changed(state.name)
            return
        self._metrics.loads.labels(*labels, "loaded").inc()
        if version in state.slots:
            self._retire(state, version)
        served = self._serve(result.model)
        state.slots[version] = _Slot(found.fingerprint, found, served, result.memory, result.device_memory)
        since = time.monotonic()
        self._metrics.loaded_seconds.labels(*labels).set_function(lambda: time.monotonic() - since)
        self._metrics.memory.labels(*labels).set(result.memory)
        how = "it gave its probe's outputs" if result.probed else "it has no probe; its outputs are finite"
        size = result.memory / 2**20
        _log.info("loaded %s version %d: %.1f MiB in %.2f s; %s", *labels[:1], version, size, result.seconds, how)
        self.changed(state.name)

    def _retire(self, state: _State, version: int) -> None:
        """Give a version no more requests, and free it when it has answered those that it has."""
        slot = state.slots.pop(version)
        state.draining[slot] = self._task(self._free(state, slot, version))
        self.changed(state.name)

    async def _free(self, state: _State, slot: _Slot, version: int) -> None:
        try:
            await slot.served.retire()
        finally:
            del state.draining[slot]
        if version not in state.slots:
            self._metrics.forget(state.name, str(version))
            self._forget_later(state, version)
        del slot  # and with it the session
        await asyncio.get_running_loop().run_in_executor(self._scans, give_back)
        _log.info("unloaded %s version %d", state.name, version)
        self._retry_for_memory()

    def _forget_later(self, state: _State, version: int) -> None:
        # Its own context, empty: the caller's may hold a call, and with it a model.
        later = partial(self._forget_counters, state, version)
        asyncio.get_running_loop().call_later(_COUNTERS_STAY, later, context=contextvars.Context())

    def _forget_counters(self, state: _State, version: int) -> None:
        if version not in state.slots and not state.draining:
            self._metrics.forget_counters(state.name, str(version))

    async def _drained(self, state: _State) -> None:
        while state.draining:
            await asyncio.wait(set(state.draining.values()))

    async def _empty(self, state: _State) -> None:
        async with state.lock:
            for version in list(state.slots):
                self._retire(state, version)
            await self._drained(state)
            state.refused.clear()

    # Memory

    def _free_memory(self) -> int | None:
        if self._config.memory_bytes is None:
            return None
        slots = (slot for state in self._states.values() for slot in (*state.slots.values(), *state.draining))
        return self._config.memory_bytes - sum(slot.memory for slot in slots)

    def _gpu_memory(self) -> dict[tuple[str, str], float]:
        """Return the bytes of each GPU by kind: used and in all as the driver says, and what the models took."""
        found: dict[tuple[str, str], float] = {}
        for device in self._devices.choice.devices:
            try:
                free, total = self._devices.memory(device.index)
            except LazyneuronError as error:
                _log.error("%s: its memory is not known: %s", device, error)
                continue
            slots = (slot for state in list(self._states.values()) for slot in list(state.slots.values()))
            of_models = sum(slot.device_memory.get(str(device), 0) for slot in slots)
            kinds = {"used": total - free, "total": total, "model": of_models}
            found |= {(str(device), kind): float(size) for kind, size in kinds.items()}
        return found

    def _fits_alone(self, state: _State, version: int, refused: Refused) -> bool:
        """Say whether a version would have room if its model's others, all of them lower, were freed."""
        if any(version <= number for number in state.slots):  # nor is a copy whose files are gone given up for another
            return False
        free = self._free_memory()
        own = sum(slot.memory for slot in state.slots.values())
        return bool(own and refused.needs) and free is not None and refused.needs <= free + own

    def _retry_for_memory(self) -> None:
        """Try again what would fit now that something has been unloaded."""
        free = self._free_memory()
        for state in self._states.values():
            fitting = [v for v, r in state.refused.items() if r.needs and (free is None or r.needs <= free)]
            for version in fitting:
                del state.refused[version]
            if fitting:
                self._see_to(state)

    # The index

    def _entries(self, name: str) -> list[Entry]:
        entries = []
        if name in self._scan.broken:
            entries.append(Entry(name, "", "UNAVAILABLE", self._scan.broken[name]))
        state = self._states.get(name, _State(name))
        draining = {slot.served.model.version for slot in state.draining}
        there = {*self._scan.models.get(name, {}), *state.slots, *draining}
        return entries + [self._entry(state, version, draining) for version in sorted(there)]

    def _entry(self, state: _State, version: int, draining: set[int]) -> Entry:
        where, why = self._where(state, version, draining)
        return Entry(state.name, str(version), where, why)

    def _where(self, state: _State, version: int, draining: set[int]) -> tuple[State, str]:
        refusal = state.refused.get(version)
        if version in state.slots:
            return "READY", "" if refusal is None else f"a newer copy of it is refused: {refusal.reason}"
        if version == state.loading or state.settled is None:
            return "LOADING", ""
        if version in draining:
            return "UNLOADING", ""
        if refusal is not None:
            return "UNAVAILABLE", refusal.reason
        if state.held:
            return "UNAVAILABLE", "unloaded by a client"
        return "UNAVAILABLE", f"not among the versions that are kept (repository.versions = {self._config.versions!r})"

    def _task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("seeing to a model failed", exc_info=error)
