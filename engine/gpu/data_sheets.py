"""What NVIDIA's data sheets say of the GPUs that plans are made for.

Sources: the data sheets "NVIDIA A100 Tensor Core GPU", "NVIDIA H100 Tensor Core GPU" and "NVIDIA H200 Tensor Core GPU"
(without sparsity, which doubles the tensor cores' figures there), and the white papers on the Ampere and Hopper
architectures for processors, clocks and caches.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["GPUS", "Gpu", "Unit", "gpu_reported"]

Unit = Literal["fp32", "tf32", "fp16", "int8"]
"""What multiplies: CUDA cores in float32, tensor cores in the others."""

_CACHE_BYTES_PER_CLOCK = 5120
"""The A100's level-2 cache, by NVIDIA's white paper on it; for Hopper nothing is published, and it is taken for that,
too."""
_PROCESSOR_BYTES_PER_CLOCK = 64
"""What one multiprocessor draws from the level-2 cache at most."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device's limits.

    Attributes
    ----------
    name
        As a person knows it.
    reported
        What the driver's name of the device holds.
    memory
        Bytes a second.
    operations
        Operations a second of each unit, a multiply-add being two.
    cache
        The level-2 cache's bytes.
    processors
        Streaming multiprocessors.
    clock
        Hertz, of which the tensor cores' figures are.
    """

    name: str
    reported: tuple[str, ...]
    memory: float
    operations: dict[Unit, float]
    cache: float
    processors: int
    clock: float

    @property
    def cache_bandwidth(self) -> float:
        """Bytes a second that the level-2 cache gives to all multiprocessors."""
        return _CACHE_BYTES_PER_CLOCK * self.clock

    @property
    def processor_bandwidth(self) -> float:
        """Bytes a second that the level-2 cache gives to one multiprocessor."""
        return _PROCESSOR_BYTES_PER_CLOCK * self.clock


_HOPPER: dict[Unit, float] = {"fp32": 67e12, "tf32": 494.7e12, "fp16": 989.4e12, "int8": 1978.9e12}

GPUS = {
    "a100": Gpu(
        name="NVIDIA A100 80 GB SXM",
        reported=("A100-SXM4-80GB", "A100-SXM-80GB"),
        memory=2039e9,
        operations={"fp32": 19.5e12, "tf32": 156e12, "fp16": 312e12, "int8": 624e12},
        cache=40e6,
        processors=108,
        clock=1.41e9,
    ),
    "h100": Gpu(
        name="NVIDIA H100 SXM",
        reported=("H100 80GB HBM3",),
        memory=3352e9,
        operations=_HOPPER,
        cache=50e6,
        processors=132,
        clock=1.83e9,
    ),
    "h200": Gpu(
        name="NVIDIA H200 SXM",
        reported=("H200",),
        memory=4800e9,
        operations=_HOPPER,
        cache=50e6,
        processors=132,
        clock=1.83e9,
    ),
}
"""By the names that `lazyneuron export --costs cuda:NAME` takes."""


def gpu_reported(name: str) -> Gpu | None:
    """Return the GPU that a driver's name of a device tells of; None where its data sheet is not known."""
    return next((gpu for gpu in GPUS.values() if any(part in name for part in gpu.reported)), None)
