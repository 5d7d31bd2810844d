"""Loading one version, step by step: each check before the next, dearer one; a refusal says at which step.

All of this runs in a thread: nothing in it may touch the event loop.
"""

import ctypes
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lazyneuron.engine.artifact import MANIFEST_FILE, Manifest, check_sizes, manifest_bytes, read_manifest, verify_files
from lazyneuron.engine.confine import confined
from lazyneuron.engine.errors import ArtifactError, LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import SelfCheck, made_inputs, made_lengths, self_check
from lazyneuron.engine.signature import TrustedKey, check_signature
from lazyneuron.server.devices import Devices, measured_bounds
from lazyneuron.server.folders import Found
from lazyneuron.server.tuning import Tuner

__all__ = ["Loaded", "Refused", "Step", "give_back", "load_version"]

_log = logging.getLogger(__name__)

Step = Literal["signature", "manifest", "files", "memory", "session", "probe"]
"""What is done to load a version, in this order; a refusal is counted under the step that failed."""
_WARM_RUNS, _WARM_TOKENS = 3, 8192


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that may take traffic.

    Attributes
    ----------
    model
        Checked and warm.
    memory
        Bytes that it is reckoned to take: its files', or what the process grew by where that is more.
    seconds
        How long loading took.
    probed
        Whether it gave its artifact's expected outputs; else its outputs were only looked at.
    device_memory
        Bytes of each GPU that it took when it was loaded, weights and the largest batch.
    """

    model: Model
    memory: int
    seconds: float
    probed: bool
    device_memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that may not.

    Attributes
    ----------
    step
        Where it failed.
    reason
        In words.
    needs
        Bytes that it would take, where that is why.
    """

    step: Step
    reason: str
    needs: int = 0


def load_version(
    name: str,
    version: int,
    found: Found,
    *,
    free: int | None,
    threads: int | None,
    trusted: Sequence[TrustedKey],
    shapes: Sequence[Mapping[str, int]],
    copies: Path | None = None,
    tuner: Tuner | None = None,
    devices: Devices | None = None,
) -> Loaded | Refused:
    """Check, open, warm and try a version.

    Parameters
    ----------
    name, version
        Whom it is to serve as; the manifest has to say the same.
    found
        Where it lies.
    free
        Bytes that loaded models may still take; None: no limit.
    threads
        ONNX Runtime's.
    trusted
        The keys of which one has to have signed it; none: any artifact is taken.
    shapes
        The lengths of the symbolic axes that its model's requests lately had: it is warmed with those.
    copies
        Where to copy the files to before they are checked; None: they are opened where they lie.
    tuner
        Finds the best way to run it on the CPU, in place of `threads`; None: one session.
    devices
        Where it runs; None: on the CPU.
    """
    load = _Load(name, version, found, free, threads, trusted, shapes, copies, tuner, devices or Devices())
    try:
        return load.run()
    except MemoryError:
        return Refused("memory", f"{found.folder}: the machine has no memory left for it", load.needs)
    except (LazyneuronError, OSError) as error:
        return Refused(load.step, str(error) or type(error).__name__, load.needs if load.step == "memory" else 0)
    except Exception as error:  # noqa: BLE001  a damaged artifact must not end the server
        _log.exception("%s version %d: loading failed in an unforeseen way", name, version)
        return Refused(load.step, f"{found.folder}: {type(error).__name__}: {error}")


@dataclass
class _Load:
    name: str
    version: int
    found: Found
    free: int | None
    threads: int | None
    trusted: Sequence[TrustedKey]
    shapes: Sequence[Mapping[str, int]]
    copies: Path | None
    tuner: Tuner | None
    devices: Devices
    step: Step = "manifest"
    needs: int = 0

    def run(self) -> Loaded:
        started = time.monotonic()
        folder, root = self.found.folder, self.found.root
        confined(folder, root)
        path = folder / MANIFEST_FILE
        confined(path, root)
        content = manifest_bytes(folder)  # once: what was signed is what is read
        if self.trusted:
            self.step = "signature"
            check_signature(folder, content, self.trusted, root=root)
        self.step = "manifest"
        manifest = read_manifest(folder, content)
        if (manifest.name, manifest.version) != (self.name, self.version):
            raise ArtifactError(
                f"{path}: it is of {manifest.name} version {manifest.version}; expected {self.name} version "
                f"{self.version}, as the folder says"
            )
        self.step = "files"
        if self.copies is None:
            return self._checked(manifest, folder, root, started)
        check_sizes(folder, manifest, root=root)
        with tempfile.TemporaryDirectory(prefix="lazyneuron-", dir=self.copies) as copy:
            for name in manifest.files:
                shutil.copyfile(confined(folder / name, root), Path(copy) / name)
            # ONNX Runtime keeps the weights' file mapped, so they are there for as long as the session is.
            return self._checked(manifest, Path(copy), Path(copy), started)

    def _checked(self, manifest: Manifest, folder: Path, root: Path, started: float) -> Loaded:
        verify_files(folder, manifest, root=root)
        self.step = "memory"
        self._reserve(sum(file.bytes for file in manifest.files.values()), "its files")
        self.step = "session"
        give_back()  # or what an earlier load has left would be counted, as less
        before = _resident()
        if self.devices.on_gpu:
            return self._on_gpu(manifest, folder, started, before)
        setting = {"threads": self.threads} if self.tuner is None else self.tuner.setting(folder).model_dump()
        model = Model.open(folder, manifest, **setting)
        self.step = "probe"
        check = self._check(model, folder)
        _warm(model, self.shapes)
        self._reserve_grown(before)
        return Loaded(model, self.needs, time.monotonic() - started, check.probed)

    def _on_gpu(self, manifest: Manifest, folder: Path, started: float, before: int) -> Loaded:
        """Open a version on each GPU, check and warm it on each, and measure how large a batch the memory holds."""
        devices = self.devices
        held = devices.held()
        model = Model.open(folder, manifest, threads=self.threads, devices=devices.choice.devices, gpu=devices.settings)
        self.step = "probe"
        alone = model.apart()
        checks = [self._check(each, folder) for each in alone]
        for each in alone:
            _warm(each, self.shapes)
        self.step = "memory"
        bounds = measured_bounds(alone, devices, held)
        model.max_tokens = min(bound.max_tokens for bound in bounds.values())
        for label, bound in bounds.items():
            _log.info(
                "%s version %d on %s: %.1f MiB, %.0f bytes a token, batches of up to %d tokens",
                self.name, self.version, label, bound.model_bytes / 2**20, bound.bytes_per_token, bound.max_tokens,
            )  # fmt: skip
        self._reserve_grown(before)
        took = {label: bound.points[-1].used for label, bound in bounds.items()}
        return Loaded(model, self.needs, time.monotonic() - started, all(check.probed for check in checks), took)

    def _check(self, model: Model, folder: Path) -> SelfCheck:
        check = self_check(model, folder)
        if check.warning is not None:
            _log.warning("%s version %d: %s", self.name, self.version, check.warning)
        return check

    def _reserve_grown(self, before: int) -> None:
        self.step = "memory"
        give_back()
        self._reserve(_resident() - before, "what the process grew by")

    def _reserve(self, size: int, what: str) -> None:
        self.needs = max(self.needs, size)
        if self.free is not None and self.needs > self.free:
            raise ArtifactError(
                f"{self.found.folder}: it takes {_amount(self.needs)} ({what}), and of the server's "
                f"repository.memory_bytes {_amount(max(self.free, 0))} are free"
            )


def _warm(model: Model, shapes: Sequence[Mapping[str, int]]) -> None:
    """Run the model at the shapes that it is used with, so that no request pays for first times."""
    for lengths in [*shapes, *made_lengths(model.manifest)][: max(_WARM_RUNS, len(shapes))]:
        try:
            request = model.request(made_inputs(model.manifest.inputs, lengths))
            if request.tokens <= _WARM_TOKENS:
                model.run([request])
        except (LazyneuronError, KeyError) as error:  # another version may take other shapes
            _log.debug("%s version %d is not warmed at %s: %s", model.name, model.version, dict(lengths), error)


def give_back() -> None:
    """Return freed memory to the system, which the C library else keeps for later; to be called in a thread."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
        if trim is not None:
            trim(0)


def _resident() -> int:
    """Return the bytes of memory that the process has; 0 where the system does not tell in this way."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def _amount(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
