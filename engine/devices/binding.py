"""Sessions whose inputs and outputs are bound to buffers that stay: pinned host memory, and a GPU's own for graphs.

Both run in any ONNX Runtime session, on the CPU too, where the buffers are ordinary memory and nothing is captured.
A run's arrays are the caller's: what the buffers held is copied out before the next run.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lazyneuron.engine.artifact import Axes, Manifest
from lazyneuron.engine.devices.buckets import MOST_SHAPES
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.devices.host_memory import Allocate, pageable

__all__ = ["BoundSession", "GraphSession", "Tensors"]

_MOST_SEEN = 1024
_NO_GRAPH = "-1"  # ONNX Runtime's word for a run that is neither captured nor replayed

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensors:
    """What goes into a graph and what comes out: the axes of each input, and the axes and type of each output."""

    inputs: Mapping[str, Axes]
    outputs: Mapping[str, tuple[Axes, np.dtype[Any]]]

    @classmethod
    def of(cls, manifest: Manifest) -> "Tensors":
        """Return an artifact's, the counts of its blocks among the outputs."""
        outputs = {o.name: (o.shape, np.dtype(o.dtype)) for o in manifest.outputs}
        for block in manifest.blocks:
            for name in (block.active_output, block.candidates_output):
                if name is not None:
                    outputs[name] = (block.rows, np.dtype(np.int32))
        return cls({spec.name: spec.shape for spec in manifest.inputs}, outputs)

    def shapes(self, feed: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each output whose axes are all known from the inputs."""
        lengths: dict[str, int] = {}
        for name, axes in self.inputs.items():
            if name in feed:
                lengths |= {a: n for a, n in zip(axes, feed[name].shape, strict=True) if isinstance(a, str)}
        found = {}
        for name, (axes, _) in self.outputs.items():
            shape = [axis if isinstance(axis, int) else lengths.get(axis, 0) for axis in axes]
            if all(shape):
                found[name] = tuple(shape)
        return found


class _Buffers:
    """Host memory by name, larger once more is wanted."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._blocks: dict[str, NDArray[np.uint8]] = {}

    def of(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a contiguous array in the buffer of that name; what was there is overwritten."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        block = self._blocks.get(name)
        if block is None or block.nbytes < size:
            # A half more: lengths creep up, and pinning takes long.
            block = self._blocks[name] = self._allocate(size + size // 2 if block is not None else size)
        return block[:size].view(dtype).reshape(shape)


class BoundSession:
    """A session that copies each batch from and to host buffers that stay, pinned where it is a GPU's.

    Safe to call from several threads: one runs at a time, since the buffers are shared.

    Parameters
    ----------
    session
        The session, which nothing else may run.
    tensors
        What goes in and out.
    allocate
        Gives the buffers.
    """

    def __init__(self, session: ort.InferenceSession, tensors: Tensors, allocate: Allocate = pageable) -> None:
        self._session = session
        self._tensors = tensors
        self._buffers = _Buffers(allocate)
        self._lock = threading.Lock()

    def run(self, fetches: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run the graph; ONNX Runtime's own errors pass through."""
        with self._lock:
            return self._run(fetches, feed, None)

    def _run(
        self, fetches: Sequence[str], feed: Mapping[str, Array], options: ort.RunOptions | None
    ) -> list[Array]:  # fmt: skip
        binding = self._session.io_binding()
        for name, array in feed.items():
            # As a value: by name and array ONNX Runtime finds no input that has a default, as the budget does.
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(self._staged(name, array)))
        shapes = self._tensors.shapes(feed)
        views: dict[str, Array] = {}
        for name in fetches:
            if name in shapes:
                dtype = self._tensors.outputs[name][1]
                view = views[name] = self._buffers.of(name, shapes[name], dtype)
                binding.bind_output(name, "cpu", 0, dtype.type, shapes[name], view.ctypes.data)
            else:  # its shape depends on values: ONNX Runtime allocates it
                binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        values = dict(zip(fetches, binding.get_outputs(), strict=True)) if len(views) < len(fetches) else {}
        return [views[name].copy() if name in views else values[name].numpy() for name in fetches]

    def _staged(self, name: str, array: Array) -> Array:
        view = self._buffers.of(name, array.shape, array.dtype)
        np.copyto(view, array)
        return view


@dataclass
class _Captured:
    """One shape's graph: the buffers that it reads and writes for ever, and what tells ONNX Runtime which it is."""

    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    binding: Any
    options: ort.RunOptions


class GraphSession(BoundSession):
    """A `BoundSession` that captures the graph of each shape that comes a second time, and then replays it.

    Without capture a batch of a small model waits for hundreds of launches. ONNX Runtime captures under the number that
    a run's options give; the buffers of a captured graph lie on the device and never move.

    Parameters
    ----------
    session, tensors, allocate
        As `BoundSession`'s; the session is to have `enable_cuda_graph`.
    device
        Where the buffers of captured graphs lie.
    """

    def __init__(
        self, session: ort.InferenceSession, tensors: Tensors, allocate: Allocate = pageable, device: Device = CPU
    ) -> None:
        super().__init__(session, tensors, allocate)
        self._device = device
        self._captured: dict[tuple[object, ...], _Captured] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._graphs = 0  # captured ever: no number comes twice
        self._plain = _options(_NO_GRAPH)

    @property
    def captured(self) -> int:
        """How many shapes have a graph."""
        return len(self._captured)

    def run(self, fetches: Sequence[str], feed: Mapping[str, Array]) -> list[Array]:
        """Run the graph; ONNX Runtime's own errors pass through."""
        key = (tuple(fetches), *((name, array.shape) for name, array in feed.items()))
        with self._lock:
            graph = self._captured.get(key)
            if graph is None and key in self._seen and len(self._captured) < MOST_SHAPES:
                graph = self._capture(fetches, feed, key)
            if graph is None:
                self._see(key)
                return self._run(fetches, feed, self._plain)
            for name, array in feed.items():
                graph.inputs[name].update_inplace(self._staged(name, array))
            try:
                self._session.run_with_iobinding(graph.binding, graph.options)
            except Exception:
                del self._captured[key]  # and with it the buffers, which the device may have no memory for
                raise
            return [_owned(output.numpy()) for output in graph.outputs]

    def _capture(
        self, fetches: Sequence[str], feed: Mapping[str, Array], key: tuple[object, ...]
    ) -> _Captured | None:  # fmt: skip
        """Bind a shape to buffers of its own; its first run captures. None where an output's shape is not known."""
        shapes = self._tensors.shapes(feed)
        if not shapes.keys() >= set(fetches):
            return None
        kind, index = self._device.kind, self._device.index
        make = ort.OrtValue.ortvalue_from_shape_and_type
        inputs = {name: make(array.shape, array.dtype.type, kind, index) for name, array in feed.items()}
        outputs = [make(shapes[name], self._tensors.outputs[name][1].type, kind, index) for name in fetches]
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(fetches, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        self._graphs += 1
        graph = _Captured(inputs, outputs, binding, _options(str(self._graphs)))
        self._captured[key] = graph
        return graph

    def _see(self, key: tuple[object, ...]) -> None:
        if len(self._seen) >= _MOST_SEEN:  # shapes that are not of a small set: none of them is worth a graph
            self._seen.clear()
        self._seen.add(key)


def _owned(array: Array) -> Array:
    """Return an array that no later run writes over: of a GPU's values it is a copy already."""
    return array if array.flags.owndata else array.copy()


def _options(graph: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    return options
