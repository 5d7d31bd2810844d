"""Requests: what one caller asks, checked against the manifest before anything is run."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lazyneuron.engine.artifact import BATCH_AXIS, InputSpec, Manifest
from lazyneuron.engine.errors import InputError
from lazyneuron.engine.origins import Origin

__all__ = ["Array", "Request", "RequestMaker"]

Array = NDArray[np.generic]

_IMAGE_RANK = 4  # [batch, channels, height, width]
_OPTIONAL = {"mask", "token_types"}
_PATCH = 16  # pixels along a side, as in most vision models


@dataclass(frozen=True, slots=True)
class Request:
    """One caller's checked input.

    Attributes
    ----------
    inputs
        Every input of the model by name, those filled in that the caller may leave out.
    budget
        The share of the exported k that its rows may use, 0 < budget <= 1.
    axes
        The length of each symbolic axis.
    batch
        Examples in it.
    length
        The product of its ragged lengths (1 where nothing is ragged); those of an image count in patches.
    shape_key
        Requests with equal keys can share a batch.
    origin
        The text or image that the inputs were made from; None where the caller gave tensors.
    row_counts
        Whether its prediction shall tell what each row used, too.
    """

    inputs: Mapping[str, Array]
    budget: float
    axes: Mapping[str, int]
    batch: int
    length: int
    shape_key: Hashable
    origin: Origin | None = None
    row_counts: bool = False

    @property
    def tokens(self) -> int:
        """Its size for batching: examples × length."""
        return self.batch * self.length


class RequestMaker:
    """Checks inputs against a manifest, of which it reads once what every request needs.

    Parameters
    ----------
    manifest
        The model's.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._specs = manifest.inputs
        self._max_lengths = manifest.max_lengths
        self._paddable = manifest.paddable
        self._names = [spec.name for spec in manifest.inputs]
        self._required = [s.name for s in manifest.inputs if s.role not in _OPTIONAL]
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in manifest.inputs}
        images = [s for s in manifest.inputs if s.role == "data" and len(s.shape) == _IMAGE_RANK]
        self._sides = {axis for spec in images for axis in spec.shape[2:]}

    def make(self, inputs: Mapping[str, ArrayLike], budget: float, origin: Origin | None = None) -> Request:
        """Return a request of these inputs.

        Raises
        ------
        InputError
            Naming the input, what was got and what was expected.
        """
        share = _share(budget)
        self._check_names(inputs)
        axes: dict[str, int] = {}
        arrays = {
            spec.name: self._checked(spec, inputs[spec.name], axes) for spec in self._specs if spec.name in inputs
        }
        for spec in self._specs:
            if spec.name not in arrays:
                arrays[spec.name] = _left_out(spec, axes)
        ragged = [(axis, size) for axis, size in axes.items() if axis != BATCH_AXIS]
        key = () if self._paddable else tuple(sorted(ragged))
        # In rows: of pixels a model makes one for each patch.
        length = math.prod([-(-size // _PATCH) if axis in self._sides else size for axis, size in ragged])
        return Request(arrays, share, axes, axes.get(BATCH_AXIS, 1), length, key, origin)

    def _check_names(self, inputs: object) -> None:
        known = self._names
        if not isinstance(inputs, Mapping):
            raise InputError("inputs", got=type(inputs).__name__, expected=f"a mapping of arrays named {known}")
        for name in inputs:
            if name not in known:
                raise InputError(repr(name), got="an input of that name", expected=f"inputs named {known}")
        for name in self._required:
            if name not in inputs:
                raise InputError(name, got="no such input", expected=f"inputs named {known}")

    def _checked(self, spec: InputSpec, value: ArrayLike, axes: dict[str, int]) -> Array:
        """Return `value` as an array that fits `spec`; note the lengths of its symbolic axes in `axes`."""
        array = _as_array(spec, self._dtypes[spec.name], value)
        if array.ndim != len(spec.shape):
            raise InputError(
                spec.name, got=f"rank {array.ndim} (shape {list(array.shape)})", expected=f"shape {_shape(spec)}"
            )
        for axis, size in zip(spec.shape, array.shape, strict=True):
            _check_axis(spec, axis, size, array.shape, axes, self._max_lengths)
        _check_values(spec, array)
        return array


def _left_out(spec: InputSpec, axes: Mapping[str, int]) -> Array:
    """Return the default of an input that may be left out: every row real, every token of the first type."""
    if unknown := [axis for axis in spec.shape if isinstance(axis, str) and axis not in axes]:
        raise InputError(spec.name, got="no such input", expected=f"it, since no other input tells {unknown[0]}")
    shape = [axes[axis] if isinstance(axis, str) else axis for axis in spec.shape]
    return np.full(shape, 1 if spec.role == "mask" else 0, spec.dtype)


def _share(budget: object) -> float:
    if not isinstance(budget, bool) and isinstance(budget, int | float | np.integer | np.floating):
        share = float(budget)
        if 0.0 < share <= 1.0:
            return share
    raise InputError("budget", got=f"{budget!r}", expected="a number greater than 0 and at most 1")


def _as_array(spec: InputSpec, dtype: np.dtype[np.generic], value: ArrayLike) -> Array:
    if not isinstance(value, np.ndarray):
        return _from_list(spec, value)
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(spec.name, got="a masked array", expected="a plain one; fill it first")
    if value.dtype != dtype:
        raise InputError(spec.name, got=f"dtype {value.dtype}", expected=spec.dtype)
    return value


def _from_list(spec: InputSpec, value: ArrayLike) -> Array:
    """Return nested lists or numbers as an array; they have no dtype of their own, so only the kind has to fit."""
    try:
        array = np.asarray(value)
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise InputError(spec.name, got=f"values of dtype {array.dtype}", expected=spec.dtype)
        return np.asarray(value, dtype=spec.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(spec.name, got=f"{type(value).__name__} ({error})", expected=spec.dtype) from None


def _check_axis(
    spec: InputSpec,
    axis: int | str,
    size: int,
    shape: tuple[int, ...],
    axes: dict[str, int],
    limits: Mapping[str, int],
) -> None:
    if size == 0:
        got = f"an empty tensor (shape {list(shape)})"
        raise InputError(spec.name, got=got, expected=f"shape {_shape(spec)}, none of them 0")
    if isinstance(axis, int):
        if size != axis:
            raise InputError(spec.name, got=f"shape {list(shape)}", expected=f"shape {_shape(spec)}")
        return
    if axes.setdefault(axis, size) != size:
        got = f"shape {list(shape)}, so {axis} {size}"
        raise InputError(spec.name, got=got, expected=f"{axis} {axes[axis]} as in the other inputs")
    if size > limits.get(axis, size):
        raise InputError(spec.name, got=f"{axis} {size}", expected=f"at most {limits[axis]}")


def _check_values(spec: InputSpec, array: Array) -> None:
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        where = [int(i) for i in np.argwhere(~finite)[0]]
        raise InputError(spec.name, got=f"{array[tuple(where)]} at {where}", expected="finite numbers")
    if spec.minimum is not None and (low := array.min()) < spec.minimum:
        raise InputError(spec.name, got=f"the value {low}", expected=f"at least {spec.minimum:g}")
    if spec.maximum is not None and (high := array.max()) > spec.maximum:
        raise InputError(spec.name, got=f"the value {high}", expected=f"at most {spec.maximum:g}")


def _shape(spec: InputSpec) -> str:
    return "[" + ", ".join(str(axis) for axis in spec.shape) + "]"
