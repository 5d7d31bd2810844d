"""Sessions on GPUs: how ONNX Runtime's CUDA provider is set, and a model's graph opened once a device."""

import logging
from dataclasses import dataclass
from pathlib import Path

from lazyneuron.engine.artifact import Manifest
from lazyneuron.engine.devices.binding import BoundSession, GraphSession, Tensors
from lazyneuron.engine.devices.choice import Device
from lazyneuron.engine.devices.host_memory import Driver
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.session import open_session

__all__ = ["GpuSettings", "open_on_gpu", "provider_options"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuSettings:
    """How GPUs are used.

    Attributes
    ----------
    memory_share
        Of the memory that is free when a session opens, what its arena may take.
    tf32
        Whether products of float32 numbers may keep 10 bits of them, as tensor cores do.
    graphs
        Whether CUDA graphs are captured, and batches padded to the few shapes that have one.
    """

    memory_share: float = 0.9
    tf32: bool = False
    graphs: bool = False


def provider_options(settings: GpuSettings, free: int) -> dict[str, str]:
    """Return the options of ONNX Runtime's CUDA provider, but for the device's number.

    Its own compute stream is used, on which our operators launch, too; no other program's stream has to be waited for.

    Parameters
    ----------
    settings
        How GPUs are used.
    free
        The device's free bytes.
    """
    options = {
        # A power of two at a time would double what a batch near the limit takes, and spoil what is measured.
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(int(free * settings.memory_share)),
        # The exhaustive search tries every algorithm at each new shape, and batches come in many.
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": str(int(settings.tf32)),
    }
    return options | ({"enable_cuda_graph": "1"} if settings.graphs else {})


def open_on_gpu(
    path: Path,
    manifest: Manifest,
    device: Device,
    settings: GpuSettings,
    driver: Driver,
    *,
    threads: int | None = None,
) -> tuple[BoundSession, GpuSettings]:
    """Open an artifact's graph on a GPU, with pinned buffers. Return the settings that it was opened with, too.

    Where ONNX Runtime refuses graphs (it captures none where a node runs on the CPU), it is opened without, and the log
    says so.

    Raises
    ------
    ArtifactError
        If ONNX Runtime refuses the graph on that device.
    LazyneuronError
        If the driver does not answer.
    """
    free, _ = driver.memory(device.index)
    tensors, allocate = Tensors.of(manifest), driver.pinned(device.index)
    if settings.graphs:
        try:
            session = open_session(
                path, threads=threads, device=device, provider_options=provider_options(settings, free)
            )
            return GraphSession(session, tensors, allocate, device), settings
        except ArtifactError as error:
            _log.warning("%s: no CUDA graphs on %s: %s", manifest.name, device, error)
            settings = GpuSettings(settings.memory_share, settings.tf32, graphs=False)
    options = provider_options(settings, free)
    session = open_session(path, threads=threads, device=device, provider_options=options)
    return BoundSession(session, tensors, allocate), settings
