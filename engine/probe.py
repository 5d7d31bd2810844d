"""The probe: an input kept in the artifact with the outputs that it gave, so that a server can check a model first.

An artifact without one is run on inputs made from its manifest, of which only this is known: their outputs are numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lazyneuron.engine.artifact import BATCH_AXIS, InputSpec, Manifest, ProbeOutput, ProbeSpec, ragged_axes
from lazyneuron.engine.errors import ArtifactError, LazyneuronError
from lazyneuron.engine.requests import Array, Request

if TYPE_CHECKING:
    from lazyneuron.engine.model import Model

__all__ = ["PROBE_FILE", "SelfCheck", "made_input", "made_inputs", "made_lengths", "self_check", "write_probe"]

PROBE_FILE = "probe.npz"
_INPUT, _OUTPUT = "input:", "output:"
_KEPT = 65_536
"""Entries of one output that are kept; logits over a vocabulary would make the file as large as a small model."""

# Another instruction set or release of ONNX Runtime adds in another order. Where that decides which neuron counts among
# the k largest, passes a predictor's threshold, or which way an int8 value is rounded, more follows. Another model is
# off by about 1.
_ROUNDING, _SELECTION, _INT8 = 1e-3, 2e-2, 5e-2

_BATCH, _LENGTH, _PIXELS = 2, 16, 224
_IMAGE_RANK = 4


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a check found that a model passed.

    Attributes
    ----------
    probed
        Whether the artifact has a probe, and it gave what it should.
    warning
        Where there is none: why the made inputs could not be run either; else None.
    """

    probed: bool
    warning: str | None = None


def made_inputs(inputs: Sequence[InputSpec], lengths: Mapping[str, int], *, seed: int = 0) -> dict[str, Array]:
    """Make an input that fits: whole numbers uniformly from its range, others from the normal distribution.

    Parameters
    ----------
    inputs
        The model's.
    lengths
        The length of each symbolic axis, `batch` among them.
    seed
        Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    return {
        spec.name: made_input(spec, [lengths[a] if isinstance(a, str) else a for a in spec.shape], rng)
        for spec in inputs
    }


def made_input(spec: InputSpec, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Make one input as `made_inputs` does, in a shape."""
    dtype = np.dtype(spec.dtype)
    if spec.role == "mask" or dtype.kind == "b":
        return np.ones(shape, dtype)
    if spec.role == "token_types":
        return np.zeros(shape, dtype)
    if dtype.kind in "iu":
        first = int(spec.minimum or 0)
        last = first + 1 if spec.maximum is None else int(spec.maximum)
        return rng.integers(first, last, shape, endpoint=True).astype(dtype)
    least = -np.inf if spec.minimum is None else spec.minimum
    most = np.inf if spec.maximum is None else spec.maximum
    return np.clip(rng.standard_normal(shape), least, most).astype(dtype)


def write_probe(folder: Path, model: "Model", inputs: Mapping[str, Array]) -> ProbeSpec:
    """Run a model and keep what went in and what came out, in `folder/probe.npz`.

    Raises
    ------
    LazyneuronError
        If the model does not take the input.
    """
    request = model.request(inputs)
    outputs = model.run([request]).predictions[0].outputs
    arrays = {f"{_INPUT}{name}": array for name, array in request.inputs.items()}
    kept = []
    for name, array in outputs.items():
        every = max(1, -(-array.size // _KEPT))
        arrays[f"{_OUTPUT}{name}"] = array.ravel()[::every]
        kept.append(ProbeOutput(name=name, shape=array.shape, every=every))
    with (folder / PROBE_FILE).open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return ProbeSpec(file=PROBE_FILE, tolerance=_tolerance(model.manifest), outputs=tuple(kept))


def self_check(model: "Model", folder: Path) -> SelfCheck:
    """Run the artifact's probe, or inputs made from its manifest, and look at what comes out.

    Raises
    ------
    ArtifactError
        If the probe cannot be read or run, an output differs by more than its tolerance, or, without a probe, an output
        is not finite.
    """
    manifest = model.manifest
    if manifest.probe is None:
        return _check_finite(model)
    path = folder / manifest.probe.file
    arrays = _read(path)
    try:
        inputs = {key.removeprefix(_INPUT): a for key, a in arrays.items() if key.startswith(_INPUT)}
        outputs = model.run([model.request(inputs)]).predictions[0].outputs
    except LazyneuronError as error:
        raise ArtifactError(f"{path}: the model does not run on its probe: {error}") from error
    for spec in manifest.probe.outputs:
        key = f"{_OUTPUT}{spec.name}"
        if key not in arrays or spec.name not in outputs:
            raise ArtifactError(f"{path}: output {spec.name!r} is not in it, or none of the model's; export it again")
        _compare(path, spec, arrays[key], outputs[spec.name], manifest.probe.tolerance)
    return SelfCheck(probed=True)


def _read(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile's and zlib's own among them
        raise ArtifactError(f"{path}: not a readable .npz file ({error or type(error).__name__})") from error


def _compare(path: Path, spec: ProbeOutput, expected: Array, output: Array, tolerance: float) -> None:
    got = output.ravel()[:: spec.every]
    if output.shape != spec.shape or got.shape != expected.shape or got.dtype != expected.dtype:
        raise ArtifactError(
            f"{path}: output {spec.name!r} is {output.dtype} {list(output.shape)} on the probe; expected "
            f"{expected.dtype} {list(spec.shape)}"
        )
    a, b = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b)
    difference[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0  # infinities and NaN that both have
    worst = float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    if worst > tolerance * (largest or 1.0):
        raise ArtifactError(
            f"{path}: output {spec.name!r} is off by {worst / (largest or 1.0):.1e} of its largest entry on the probe; "
            f"expected at most {tolerance:g}: these are other weights, or operators, than it was exported with"
        )


def _check_finite(model: "Model") -> SelfCheck:
    warning = None
    for lengths in made_lengths(model.manifest):
        try:
            request: Request = model.request(made_inputs(model.manifest.inputs, lengths))
            outputs = model.run([request]).predictions[0].outputs
        except LazyneuronError as error:  # it may be made for other lengths or values than these: that proves nothing
            warning = f"not checked, since it does not run on random input: {error}"
            continue
        for name, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ArtifactError(
                    f"{model.name}: output {name!r} holds {array[~np.isfinite(array)][0]} for random input; expected "
                    "finite numbers; the weights are damaged (or export it again, which gives it a probe)"
                )
        return SelfCheck(probed=False)
    return SelfCheck(probed=False, warning=warning)


def made_lengths(manifest: Manifest, length: int = _LENGTH) -> list[dict[str, int]]:
    """Return lengths of the symbolic axes to try: a short batch first, then a lone example.

    Parameters
    ----------
    length
        Of each ragged axis that is no side of an image, where the model takes as much.
    """
    names = {axis for spec in manifest.inputs for axis in ragged_axes(spec.shape)}
    sides = {a for s in manifest.inputs if s.role == "data" and len(s.shape) == _IMAGE_RANK for a in s.shape[2:]}
    usual = {axis: _PIXELS if axis in sides else length for axis in names}
    usual = {axis: min(size, manifest.max_lengths.get(axis, size)) for axis, size in usual.items()}
    return [{**usual, BATCH_AXIS: _BATCH}, {**usual, BATCH_AXIS: 1}]


def _tolerance(manifest: Manifest) -> float:
    if manifest.quantize == "int8":
        return _INT8
    selective = any(block.mode == "predictor" or block.top_k for block in manifest.blocks)
    half = any(output.dtype == "float16" for output in manifest.outputs)
    return _SELECTION if selective or half else _ROUNDING
