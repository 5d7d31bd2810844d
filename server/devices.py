"""The devices of a server, and what a loaded model takes of a GPU: how large a batch its memory holds."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lazyneuron.engine.artifact import BATCH_AXIS
from lazyneuron.engine.devices.choice import CPU, Choice
from lazyneuron.engine.devices.cuda import GpuSettings
from lazyneuron.engine.devices.memory import Bound, RanOutError, measure
from lazyneuron.engine.errors import ArtifactError, DeviceMemoryError, LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import made_inputs, made_lengths
from lazyneuron.engine.requests import Request
from lazyneuron.server.config import ServerConfig

__all__ = ["Devices", "chosen_devices", "measured_bounds", "probing_requests"]

_log = logging.getLogger(__name__)

_USUAL_LENGTH = 128
_MOST_LENGTH = 4096
"""Of a probing batch's one long example, where the model has no most: attention takes its square."""


def _no_gpu(index: int) -> tuple[int, int]:
    raise LazyneuronError(f"cuda:{index}: no GPU was chosen")


@dataclass(frozen=True, slots=True)
class Devices:
    """Where a server's models run.

    Attributes
    ----------
    choice
        The devices.
    settings
        How GPUs are used.
    most_tokens
        The most tokens of a batch, by the settings.
    memory
        Gives a GPU's free bytes and all of its bytes, by its number.
    """

    choice: Choice = field(default_factory=lambda: Choice((CPU,)))
    settings: GpuSettings = field(default_factory=GpuSettings)
    most_tokens: int = 8192
    memory: Callable[[int], tuple[int, int]] = _no_gpu

    @property
    def on_gpu(self) -> bool:
        """Whether these are GPUs."""
        return self.choice.on_gpu

    def held(self) -> dict[str, int]:
        """Return the free bytes of each GPU now: what `measured_bounds` compares with."""
        return {str(device): self.memory(device.index)[0] for device in self.choice.devices if device != CPU}


def chosen_devices(config: ServerConfig) -> Devices:
    """Choose the devices that the settings ask for, and check their kernels.

    Raises
    ------
    ConfigurationError
        If a GPU is asked for by its number and cannot be used.
    """
    settings = GpuSettings(config.gpu.memory_share, config.gpu.tf32, config.gpu.graphs)
    if config.device == "cpu":
        return Devices(settings=settings, most_tokens=config.batching.max_tokens)
    from lazyneuron.engine.devices.found import choose_devices
    from lazyneuron.engine.devices.host_memory import cuda_driver

    choice = choose_devices(config.device)
    memory = cuda_driver().memory if choice.on_gpu else _no_gpu
    return Devices(choice, settings, config.batching.max_tokens, memory)


def measured_bounds(models: Sequence[Model], devices: Devices, free_before: Mapping[str, int]) -> dict[str, Bound]:
    """Return for each GPU what a model takes of it and how large a batch may be, by batches that grow.

    Parameters
    ----------
    models
        The model on each device by itself.
    devices
        The server's.
    free_before
        The free bytes of each before the model was opened.

    Raises
    ------
    ArtifactError
        If not even a small batch fits; the device is named.
    """
    bounds = {}
    for model in models:
        (device,) = model.devices
        label = str(device)
        index, free = device.index, free_before[label]

        probe = _Probe(model)

        def used(index: int = index, free: int = free) -> int:
            return max(0, free - devices.memory(index)[0])

        try:
            bounds[label] = measure(probe.run, used, int(free * devices.settings.memory_share), devices.most_tokens)
        except ArtifactError as error:
            raise ArtifactError(f"{model.name} on {label}: {error}") from error
        if not probe.ran:
            _log.warning(
                "%s: what its batches take of %s is not known: it does not run on random input", model.name, label
            )
    return bounds


def probing_requests(model: Model, tokens: int) -> Iterator[Request]:
    """Give requests of about so many tokens: of the longest examples that have as many, and of usual ones.

    Attention takes the square of a length, so that a few long examples may want more memory than many short ones.

    Raises
    ------
    InputError
        If the model does not take what is made for it.
    """
    manifest = model.manifest
    for length in {min(tokens, _MOST_LENGTH), min(tokens, _USUAL_LENGTH)}:
        _, lengths = made_lengths(manifest, length)
        one = model.request(made_inputs(manifest.inputs, lengths))
        examples = max(1, tokens // one.length) if manifest.batchable else 1
        yield model.request(made_inputs(manifest.inputs, {**lengths, BATCH_AXIS: examples}))


class _Probe:
    """Runs probing batches of one model; knows whether any of them ran."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.ran = False

    def run(self, tokens: int) -> None:
        try:
            for request in probing_requests(self._model, tokens):
                self._model.run([request])
                self.ran = True
        except DeviceMemoryError as error:
            raise RanOutError(str(error)) from error
        except LazyneuronError as error:  # it may be made for other lengths or values: the self-check has told that
            _log.debug("%s: no probing batch of %d tokens: %s", self._model.name, tokens, error)
