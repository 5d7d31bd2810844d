"""What this machine has for CUDA: ONNX Runtime's provider, the driver's GPUs, and whether our kernels agree there."""

import ctypes
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import onnxruntime as ort

from lazyneuron.engine.devices.choice import CPU, Choice, Device, Found, choose
from lazyneuron.engine.errors import LazyneuronError, one_line
from lazyneuron.engine.onnx_writer import Node, write_model
from lazyneuron.engine.session import CUDA_PROVIDER, find_cuda_libraries

__all__ = ["choose_devices", "lacking", "look"]

_IDENTITY = write_model([Node("Identity", ["x"], ["y"])], {"x": ("float32", [1])}, {"y": ("float32", [1])}, {})
"""An ONNX model: y = x, float32 [1]."""


def choose_devices(asked: str) -> Choice:
    """Return the devices for `--device asked` on this machine, each GPU's kernels checked.

    Raises
    ------
    ConfigurationError
        As `choose`.
    """
    return choose(asked, look, _check)


def lacking(device: Device) -> str:
    """Say why a device of this machine cannot be used, in a clause; empty where it can."""
    return "" if device == CPU else look().lacking(device.index)


def look() -> Found:
    """Return what there is for CUDA. Nothing is loaded before ONNX Runtime could use it and the driver shows a GPU."""
    if CUDA_PROVIDER not in ort.get_available_providers():
        return Found(
            f"this ONNX Runtime {ort.__version__} is built without its CUDA provider; {_wheel_to_install()}", ""
        )
    from lazyneuron.engine.gpu import driver

    try:
        gpus = driver.devices()
    except LazyneuronError as error:  # one that is there and does not answer
        return Found("", str(error))
    if not gpus:
        return Found("", driver.why_none() or "")
    return Found(_provider_lacks(gpus[0].index), "", gpus)


def _wheel_to_install() -> str:
    """Say what to do for a runtime with CUDA: both wheels bring a folder `onnxruntime`, and the later one wins."""
    try:
        version = metadata.version("onnxruntime-gpu")
    except metadata.PackageNotFoundError:
        return "docs/serving.md, Devices, says how to install the one that has it"
    return (
        f"onnxruntime-gpu {version} is installed, but onnxruntime lies over it: pip uninstall -y onnxruntime, then "
        f"pip install --force-reinstall --no-deps onnxruntime-gpu=={version}"
    )


def _provider_lacks(index: int) -> str:
    """Say what keeps ONNX Runtime's CUDA provider from a device; empty where nothing does.

    ONNX Runtime itself would go on without the provider, and tells its log alone, so that it is tried on a small graph.
    """
    find_cuda_libraries()
    ort.set_default_logger_severity(4)
    try:
        providers = [(CUDA_PROVIDER, {"device_id": str(index)}), "CPUExecutionProvider"]
        session = ort.InferenceSession(_IDENTITY, providers=providers, enable_fallback=0)
    except Exception as error:  # noqa: BLE001  a driver that is too old, a device that is kept for another process, …
        return f"ONNX Runtime {ort.__version__}'s CUDA provider fails: {one_line(error)}"
    finally:
        ort.set_default_logger_severity(3)
    return "" if session.get_providers()[0] == CUDA_PROVIDER else _library_lacks()


def _library_lacks() -> str:
    """Say which library the CUDA provider cannot be loaded for, once ONNX Runtime has failed to: never before.

    The provider's own start wants what ONNX Runtime sets up for it; what lacks a library does not come as far.
    """
    version = ort.__version__
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return (
            f"ONNX Runtime {version}'s CUDA provider cannot be loaded: {error}; its libraries come with "
            f"pip install 'onnxruntime-gpu[cuda,cudnn]=={version}', or with CUDA and cuDNN"
        )
    return f"ONNX Runtime {version} cannot start its CUDA provider there"


def _check(index: int) -> Sequence[object]:
    """Run the short self-check; what keeps it from running counts as a disagreement."""
    try:
        from lazyneuron.engine.gpu import selfcheck

        disagreements: Sequence[object] = selfcheck.short(Device("cuda", index))
    except Exception as error:  # noqa: BLE001  any fault of a driver or a kernel: the GPU is not to be used
        return [f"{type(error).__name__}: {error}"]
    return disagreements
