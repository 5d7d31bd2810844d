"""The artifact: a model's folder `NAME/VERSION/`, its manifest and the digests of its files.

`manifest.json` is checked against the JSON schema that these classes define; `docs/manifest.schema.json` is the
same schema for readers in other languages.
"""

import hashlib
import json
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lazyneuron.engine.confine import confined, plain_name
from lazyneuron.engine.documents import read_document
from lazyneuron.engine.errors import ArtifactError
from lazyneuron.engine.onnx_locations import check_listed

__all__ = [
    "BATCH_AXIS",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "Axes",
    "BlockFlops",
    "BlockPlan",
    "Calibration",
    "Density",
    "FileDigest",
    "ImageSpec",
    "InputSpec",
    "Manifest",
    "OutputAgreement",
    "OutputSpec",
    "ProbeOutput",
    "ProbeSpec",
    "Problem",
    "Quality",
    "ResizeSpec",
    "Source",
    "TokenizerSpec",
    "check_sizes",
    "digest",
    "manifest_bytes",
    "mask_for",
    "ragged_axes",
    "read_manifest",
    "resolve_version",
    "verify_files",
    "versions",
]

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
_LARGEST_MANIFEST = 2**26
BATCH_AXIS = "batch"
"""The name of the axis along which requests are joined. An axis with any other name is ragged: its length may
differ between requests, and shorter ones are padded."""

_Integers = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DType = Literal["bool", _Integers, "float16", "float32", "float64"]
Activation = Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "identity"]
Axes = tuple[Annotated[int, Field(ge=0)] | str, ...]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1)]
Problem = Literal["single_label", "multi_label", "regression"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Part):
    """What the artifact was made from."""

    kind: Literal["hugging_face", "onnx_file", "python_function"]
    name: str
    digest: str
    """`sha256:` and the digest over the checkpoint's files."""


class FileDigest(_Part):
    """One file of the artifact, as it was written."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Count


class InputSpec(_Part):
    """One input of the model.

    A symbolic axis is a name: `batch` (always axis 0 where it occurs) or a ragged axis such as `sequence`.
    """

    name: str
    dtype: DType
    shape: Axes
    role: Literal["data", "tokens", "mask", "token_types"] = "data"
    """`mask` tells real rows (non-zero) from padding; it and `token_types` may be left out of a request."""
    pad: float | None = None
    """What fills a ragged axis; None when shorter requests cannot be padded."""
    minimum: float | None = None
    """The least value that the model takes, such as 0 for token ids; None: any."""
    maximum: float | None = None
    """The greatest value that the model takes, such as the vocabulary's last id; None: any."""


class OutputSpec(_Part):
    """One output of the model."""

    name: str
    dtype: DType
    shape: Axes


class Density(_Part):
    """How many of a block's neurons fired on the calibration rows, as shares of `d_ff`."""

    rows: Count
    mean: Share
    p50: Share
    p90: Share
    p95: Share
    p99: Share
    never_active: Share
    """The share of neurons that fired for no row."""


class BlockFlops(_Part):
    """What a block costs, in floating-point operations (a multiply-add is two).

    executed = rows · per_row + candidates · per_candidate + active · per_active; int8 operations stand apart.
    """

    dense_per_row: Count
    per_row: Count = 0
    """The predictor's or the screen's own operations."""
    int8_per_row: Count = 0
    """Those of them done on 8-bit integers; counted within `per_row`."""
    per_candidate: Count
    per_active: Count


class BlockPlan(_Part):
    """What is done to one MLP block."""

    name: str
    operator: Literal["SparseDown", "SparseMLP"]
    mode: Literal["exact", "certified", "predictor", "gate"]
    activation: Activation
    gated: bool = False
    d_model: Annotated[int, Field(ge=1)]
    d_ff: Annotated[int, Field(ge=1)]
    d_out: Annotated[int, Field(ge=1)]
    top_k: Count = 0
    """0: no cap."""
    threshold: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """A neuron is active when its value exceeds it (relu, relu2), else when its magnitude does."""
    centred: bool = False
    """Whether a constant for each neuron is taken off the values before they are compared, and comes back with the
    output's bias: a neuron that is left out then counts with that constant instead of with zero."""
    density: Density
    candidates: Share = 1.0
    """The share of neurons whose up projection was computed on held-out data."""
    flops: BlockFlops
    rows: Axes
    """The axes of the count outputs: one number for each row."""
    active_output: str
    candidates_output: str | None = None
    """None: every neuron's up projection is computed."""
    predictor_rank: Count | None = None
    predictor_recall: Share | None = None
    """The share of active neurons that were candidates, on rows that the predictor was not fitted on."""
    predictor_energy: Share | None = None
    """The share of the output's energy that they carried there: of the sum of (value · ‖down row‖)²."""


class OutputAgreement(_Part):
    """How one output of the sparse graph compares with the dense graph's on held-out data."""

    name: str
    max_abs_error: Annotated[float, Field(ge=0.0)]
    max_rel_error: Annotated[float, Field(ge=0.0)]
    """The largest absolute error over the largest absolute dense output."""
    rms_rel_error: Annotated[float, Field(ge=0.0)] | None = None
    """The root of the mean squared error over that of the mean squared dense output."""
    same_argmax: Share | None = None
    """The share of rows whose largest entry is in the same place; None where an argmax has no meaning."""


class Quality(_Part):
    """The sparse graph against the dense one on held-out calibration data."""

    examples: Count
    outputs: tuple[OutputAgreement, ...]


class Calibration(_Part):
    """What the blocks' densities were measured on."""

    kind: Literal["data", "random"]
    """`random`: nobody gave data, so the densities say little about real input."""
    name: str | None
    """The calibration file's name."""
    examples: Count


class TokenizerSpec(_Part):
    """How text becomes tokens: `tokenizer.json`, run by the `tokenizers` library."""

    file: str = "tokenizer.json"
    max_length: Annotated[int, Field(ge=1)]
    truncate: Literal["left", "right"] | None = None
    """The side on which a longer text is cut; None: it is refused."""
    mask_token: str | None = None
    """What stands in a text for the word to fill in."""
    decoder_start: Count | None = None
    """The token that an encoder–decoder's target begins with."""


class ResizeSpec(_Part):
    """The size that an image is brought to.

    Either `height` and `width`; or `shortest_edge`, the shape kept, and with `longest_edge` no longer than that; or
    the largest of its shape within `max_height` and `max_width`.
    """

    height: Pixels | None = None
    width: Pixels | None = None
    shortest_edge: Pixels | None = None
    longest_edge: Pixels | None = None
    max_height: Pixels | None = None
    max_width: Pixels | None = None
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    """Pillow's filter of that name."""

    @model_validator(mode="after")
    def _one_rule(self) -> "ResizeSpec":
        pairs = [(self.height, self.width), (self.max_height, self.max_width)]
        whole = [all(pair) for pair in pairs] + [self.shortest_edge is not None]
        lone = any(any(pair) and not all(pair) for pair in pairs)
        if sum(whole) != 1 or lone or (self.longest_edge and not self.shortest_edge):
            msg = "expected height and width, shortest_edge (and longest_edge), or max_height and max_width"
            raise ValueError(msg)
        return self


class ImageSpec(_Part):
    """How an image becomes an input: decoded, resized, cropped, then (pixel · rescale − mean) / std by channel."""

    input: str
    """The input that it fills, float32 [batch, channels, height, width]."""
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    """Their order; L: one of grey."""
    resize: ResizeSpec | None = None
    crop: tuple[Pixels, Pixels] | None = None
    """The height and width cut from the middle; a smaller image is padded with black."""
    rescale: float | None = None
    """What pixels, whole numbers from 0 to 255, are multiplied by."""
    mean: tuple[float, ...] | None = None
    """One a channel."""
    std: tuple[float, ...] | None = None
    """One a channel."""

    @model_validator(mode="after")
    def _one_a_channel(self) -> "ImageSpec":
        lengths = {len(values) for values in (self.mean, self.std) if values is not None}
        if (self.mean is None) != (self.std is None) or lengths - {len(self.channels)}:
            msg = f"mean and std: expected both, {len(self.channels)} numbers each, or neither"
            raise ValueError(msg)
        return self


class ProbeOutput(_Part):
    """What is kept of one output that the probe's input gave."""

    name: str
    shape: tuple[Count, ...]
    every: Annotated[int, Field(ge=1)] = 1
    """The file holds every that many-th entry, in row-major order."""


class ProbeSpec(_Part):
    """An input and the outputs that it gave where the artifact was made, by which whoever serves it checks it."""

    file: str = "probe.npz"
    """NumPy arrays, none of them pickled: `input:NAME` whole, and `output:NAME` with what is kept, flat."""
    tolerance: Annotated[float, Field(gt=0.0, lt=1.0)]
    """The greatest difference of an entry, as a share of the output's largest finite one."""
    outputs: Annotated[tuple[ProbeOutput, ...], Field(min_length=1)]


class Manifest(_Part):
    """All that is known of a model besides its weights."""

    format_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    version: Annotated[int, Field(ge=1, lt=10**18)]
    created_by: str
    source: Source
    task: str
    mode: Literal["exact", "certified", "predictor"]
    quantize: Literal["none", "int8"] = "none"
    """`int8`: products with constant weights outside the blocks' operators are int8."""
    files: dict[str, FileDigest]
    inputs: Annotated[tuple[InputSpec, ...], Field(min_length=1)]
    outputs: Annotated[tuple[OutputSpec, ...], Field(min_length=1)]
    budget_input: str | None
    """A float32 input [batch] with a default of 1: each request's share of the exported k."""
    max_lengths: dict[str, Annotated[int, Field(ge=1)]] = {}
    """The greatest length of a ragged axis, by its name, where the model has one (its position embeddings)."""
    blocks: Annotated[tuple[BlockPlan, ...], Field(min_length=1)]
    quality: Quality | None
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()
    """What a person should know of the export, in sentences."""
    tokenizer: TokenizerSpec | None = None
    image: ImageSpec | None = None
    """None: no image goes in, or only as a tensor that the caller makes."""
    labels: tuple[str, ...] | None = None
    """The classes' names, in the order of the logits."""
    problem: Problem | None = None
    """What the logits of a classifier are; None: those of one label of several, as in single_label."""
    probe: ProbeSpec | None = None
    """None: whoever serves the model can only look whether its outputs are numbers."""

    @model_validator(mode="after")
    def _files_stay_inside(self) -> "Manifest":
        for name in self.files:
            if not plain_name(name):
                msg = f"files: {name!r} is not a plain file name"
                raise ValueError(msg)
        needed = [MODEL_FILE, *(part.file for part in (self.tokenizer, self.probe) if part is not None)]
        for name in needed:
            if name not in self.files:
                msg = f"files: {name} is missing"
                raise ValueError(msg)
        return self

    @property
    def batchable(self) -> bool:
        """Whether requests can be joined: every input, output and count begins with the batch axis."""
        return all(axes[:1] == (BATCH_AXIS,) for axes in self._all_axes())

    @property
    def paddable(self) -> bool:
        """Whether requests of unlike lengths can be joined.

        They can where a mask tells padding from rows, and every ragged axis of an output or a count is one of an
        input's, so that it can be cut back to the request's own length.
        """
        if not self.batchable or not any(i.role == "mask" for i in self.inputs):
            return False
        fillable = all(i.role == "mask" or i.pad is not None for i in self.inputs if ragged_axes(i.shape))
        known = {axis for i in self.inputs for axis in ragged_axes(i.shape)}
        return fillable and all(set(ragged_axes(axes)) <= known for axes in self._all_axes())

    def mask_for(self, rows: Axes) -> InputSpec | None:
        """Return the mask input whose axes are `rows`, if there is one."""
        return mask_for(self.inputs, rows)

    def _all_axes(self) -> list[Axes]:
        specs = [i.shape for i in self.inputs] + [o.shape for o in self.outputs]
        return specs + [b.rows for b in self.blocks]


def ragged_axes(axes: Axes) -> tuple[str, ...]:
    """Return the names among `axes` whose length may differ between requests."""
    return tuple(axis for axis in axes if isinstance(axis, str) and axis != BATCH_AXIS)


def mask_for(inputs: Sequence[InputSpec], rows: Axes) -> InputSpec | None:
    """Return the mask input whose axes are `rows`, if there is one."""
    return next((spec for spec in inputs if spec.role == "mask" and spec.shape == rows), None)


def digest(path: Path) -> FileDigest:
    """Return the size and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileDigest(sha256=sha256, bytes=path.stat().st_size)


def versions(model: Path) -> list[int]:
    """Return the versions in a model's folder, ascending: its subfolders named by a positive integer."""
    if not model.is_dir():
        return []
    return sorted(int(p.name) for p in model.iterdir() if p.is_dir() and re.fullmatch(r"[1-9]\d*", p.name))


def resolve_version(path: Path) -> Path:
    """Return the folder that holds the manifest: `path` itself, or its highest version.

    Raises
    ------
    ArtifactError
        If neither `path` nor a version under it is an artifact.
    """
    if (path / MANIFEST_FILE).is_file():
        return path
    found = versions(path)
    if found:
        return path / str(found[-1])
    if not path.exists():
        raise ArtifactError(f"{path}: no such folder; give a model's folder, or one of its versions")
    raise ArtifactError(f"{path}: not a model; expected {MANIFEST_FILE} or a numbered version folder in it")


def manifest_bytes(folder: Path) -> bytes:
    """Return what stands in a version's `manifest.json`, unchecked.

    Raises
    ------
    ArtifactError
        If there is no such file, or it cannot be read; a pipe would be waited for, and a device read for ever.
    """
    path = folder / MANIFEST_FILE
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_MANIFEST:
            raise ArtifactError(f"{path}: not a file of at most {_LARGEST_MANIFEST} bytes; export the model again")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; the artifact is incomplete, export it again") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error}); export it again") from error


def read_manifest(folder: Path, content: bytes | None = None) -> Manifest:
    """Read and check `manifest.json` in a version's folder.

    Parameters
    ----------
    folder
        The version's folder.
    content
        What stands in the file, where it has been read already.

    Raises
    ------
    ArtifactError
        If the file is missing, is not JSON, does not fit the schema or has another format version.
    """
    path = folder / MANIFEST_FILE
    return read_document(
        path,
        Manifest,
        FORMAT_VERSION,
        ArtifactError,
        what="manifest",
        missing="the artifact is incomplete, export it again",
        unreadable="; export it again",
        strict=True,
        content=manifest_bytes(folder) if content is None else content,
    )


def check_sizes(folder: Path, manifest: Manifest, *, root: Path | None = None) -> None:
    """See to it that each file is there and of its size: a quick look, before gigabytes are read.

    Parameters
    ----------
    root
        The folder that no file may lie outside of, links followed; None: the version's own.

    Raises
    ------
    ArtifactError
        If a file is missing, of another size, or leads out of `root`.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        confined(path, root or folder)
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, though the manifest lists it; export the model again")
        size = path.stat().st_size
        if size != expected.bytes:
            raise ArtifactError(
                f"{path}: {size} bytes, the manifest says {expected.bytes} bytes; the file was changed or cut short"
            )


def verify_files(folder: Path, manifest: Manifest, *, root: Path | None = None) -> None:
    """Compare each file with its digest, and see to it that the graph reads no other.

    Raises
    ------
    ArtifactError
        As `check_sizes`; if a file is not the one that the manifest describes; or if the graph's external data is in a
        file that the manifest does not list.
    """
    check_sizes(folder, manifest, root=root)
    for name, expected in manifest.files.items():
        path = folder / name
        found = digest(path)
        if found != expected:
            raise ArtifactError(
                f"{path}: sha256 is {found.sha256[:12]}… ({found.bytes} bytes), the manifest says "
                f"{expected.sha256[:12]}… ({expected.bytes} bytes); the file was changed or cut short"
            )
    check_listed(folder / MODEL_FILE, manifest.files)


if __name__ == "__main__":
    print(json.dumps(Manifest.model_json_schema(), indent=2))  # noqa: T201  writes docs/manifest.schema.json
