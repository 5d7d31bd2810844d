"""A loaded model: checked requests in, outputs with counts out."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort
from numpy.typing import ArrayLike

from lazyneuron.engine.accounting import Sparsity
from lazyneuron.engine.artifact import (
    BATCH_AXIS,
    MODEL_FILE,
    Manifest,
    read_manifest,
    resolve_version,
    verify_files,
)
from lazyneuron.engine.block_rows import BlockRows, block_rows, joined_rows
from lazyneuron.engine.collate import batch_axes, cut, join
from lazyneuron.engine.counting import Counting, RowCounts
from lazyneuron.engine.devices.buckets import bucketed
from lazyneuron.engine.devices.choice import CPU, Device
from lazyneuron.engine.devices.failures import is_out_of_memory
from lazyneuron.engine.errors import DeviceMemoryError, InputError, LazyneuronError, one_line
from lazyneuron.engine.heads.answers import Answer
from lazyneuron.engine.heads.reader import TOP, Reader
from lazyneuron.engine.image import ImageEncoder
from lazyneuron.engine.origins import Origin, image_content
from lazyneuron.engine.requests import Array, Request, RequestMaker
from lazyneuron.engine.session import Sessions, open_session
from lazyneuron.engine.splitting import joined_outputs
from lazyneuron.engine.text import TextEncoder

if TYPE_CHECKING:
    from lazyneuron.engine.devices.cuda import GpuSettings

__all__ = ["BatchResult", "Computed", "Inputs", "Model", "Prediction", "Prepared"]

Inputs = Mapping[str, ArrayLike] | str | bytes | Path
"""Arrays by input name; a text; or an image, as its file's bytes or path."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One request's answer.

    Attributes
    ----------
    outputs
        The model's outputs by name, for this request alone.
    sparsity
        What was skipped for it, over its real rows.
    reader
        Gives the answers with as many candidates as are asked for; what `read` calls.
    rows
        What each row used, block by block, where the request asked for it; else empty.
    """

    outputs: Mapping[str, Array]
    sparsity: Sparsity
    reader: Callable[[int], tuple[Answer, ...]] = field(default=lambda _: (), repr=False)
    rows: tuple[BlockRows, ...] = ()

    def read(self, top: int = TOP) -> tuple[Answer, ...]:
        """Return the outputs in words, one answer for each example; none where the model's task has no head.

        Parameters
        ----------
        top
            The most candidates (classes, words, objects) of an answer.

        Raises
        ------
        InputError
            If `top` is less than 1.
        """
        if top < 1:
            raise InputError("top", got=str(top), expected="at least 1")
        return self.reader(top)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """What `read` gives, with five candidates."""
        return self.read()

    @property
    def answer(self) -> Answer | None:
        """The answer for one text or image; of several examples the first's."""
        return next(iter(self.answers), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The answer's labels: classes or words, the best first; the best of each token, mask or object."""
        answer = self.answer
        return () if answer is None else answer.labels


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch gave and cost.

    Attributes
    ----------
    predictions
        One a request, in the requests' order.
    tokens_real, tokens_padding
        Real and padding rows of the batch.
    flops_padding_computed, flops_padding_skipped
        Operations wasted on padding rows, and those that budget 0 spared.
    seconds
        How long ONNX Runtime took.
    examples
        In all of its requests together.
    input_seconds, output_seconds
        Joining the requests before that, and cutting their outputs and counts after it.
    sparsity
        What was skipped, over all of its requests.
    rows
        The active neurons of each row, one entry a block.
    """

    predictions: list[Prediction]
    tokens_real: int
    tokens_padding: int
    flops_padding_computed: int
    flops_padding_skipped: int
    seconds: float
    examples: int = 1
    input_seconds: float = 0.0
    output_seconds: float = 0.0
    sparsity: Sparsity = field(default_factory=lambda: Sparsity(()))
    rows: tuple[RowCounts, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch before it runs: its requests, the graph's inputs, and how long it took to join them."""

    requests: Sequence[Request]
    feed: Mapping[str, Array]
    seconds: float


@dataclass(frozen=True, slots=True)
class Computed:
    """A batch that has run: what the graph gave, by name, and how long ONNX Runtime took."""

    prepared: Prepared
    values: Mapping[str, Array]
    seconds: float


class Model:
    """An artifact in ONNX Runtime. Safe to call from several threads.

    Parameters
    ----------
    manifest
        What the artifact says of itself.
    session
        Its graph, in one session or in several.
    encoder
        Its tokenizer, where text goes in.
    buckets
        Whether batches are padded to a few shapes (`devices.buckets`).

    Attributes
    ----------
    concurrency
        How many batches are best run at the same time; None where that was not measured.
    devices
        Where its sessions are, one on each; several of one device count once.
    max_tokens
        The most tokens of a batch, padding included, that its devices' memory holds; None: not known to be bounded.
    """

    def __init__(
        self,
        manifest: Manifest,
        session: ort.InferenceSession | Sessions,
        encoder: TextEncoder | None,
        *,
        concurrency: int | None = None,
        devices: tuple[Device, ...] = (CPU,),
        buckets: bool = False,
    ) -> None:
        self.manifest = manifest
        self.concurrency = concurrency
        self.devices = devices
        self.max_tokens: int | None = None
        self._buckets = buckets and manifest.batchable
        self._sessions = session if isinstance(session, Sessions) else Sessions([session])
        self._encoder = encoder
        self._image_encoder = None if manifest.image is None else ImageEncoder(manifest.image)
        self._reader = Reader(manifest, encoder)
        self._requests = RequestMaker(manifest)
        self._counting = Counting(manifest)
        counts = [(b.active_output, b.candidates_output) for b in manifest.blocks]
        self._fetches = [o.name for o in manifest.outputs] + [n for pair in counts for n in pair if n is not None]

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        verify: bool = True,
        spinning: bool = False,
        instances: int = 1,
        concurrency: int | None = None,
    ) -> "Model":
        """Load a model.

        Parameters
        ----------
        path
            A model's folder (its highest version is taken) or a version's.
        threads
            Intra-op threads of ONNX Runtime; None: one a usable core.
        verify
            Whether to compare the files with the manifest's digests.
        spinning
            Whether idle threads spin, as `open_session` says: for a process that does nothing else.
        instances
            Sessions, each with `threads` of its own and its own copy of the weights.
        concurrency
            As the attribute.

        Raises
        ------
        ArtifactError
            If the artifact is missing, damaged or of another format version.
        """
        folder = resolve_version(Path(path))
        manifest = read_manifest(folder)
        if verify:
            verify_files(folder, manifest)
        return cls.open(
            folder, manifest, threads=threads, spinning=spinning, instances=instances, concurrency=concurrency
        )

    @classmethod
    def open(
        cls,
        folder: Path,
        manifest: Manifest,
        *,
        threads: int | None = None,
        spinning: bool = False,
        instances: int = 1,
        concurrency: int | None = None,
        devices: tuple[Device, ...] = (CPU,),
        gpu: "GpuSettings | None" = None,
    ) -> "Model":
        """Open a version whose manifest has been read and whose files have been checked; else as `load`.

        Parameters
        ----------
        devices
            The CPU alone, or GPUs, with a session on each, so that as many batches run at a time.
        gpu
            How GPUs are used; None: as `GpuSettings` has it.

        Raises
        ------
        ArtifactError
            If ONNX Runtime refuses the graph, or the tokenizer cannot be read.
        """
        if devices != (CPU,):
            return cls._open_on_gpus(folder, manifest, devices, gpu, threads)
        sessions = [open_session(folder / MODEL_FILE, threads=threads, spinning=spinning) for _ in range(instances)]
        return cls(manifest, Sessions(sessions), TextEncoder.load(folder, manifest), concurrency=concurrency)

    @classmethod
    def _open_on_gpus(
        cls,
        folder: Path,
        manifest: Manifest,
        devices: tuple[Device, ...],
        gpu: "GpuSettings | None",
        threads: int | None,
    ) -> "Model":
        from lazyneuron.engine.devices.cuda import GpuSettings, open_on_gpu
        from lazyneuron.engine.devices.host_memory import cuda_driver

        settings, sessions = gpu or GpuSettings(), []
        for device in devices:
            session, settings = open_on_gpu(
                folder / MODEL_FILE, manifest, device, settings, cuda_driver(), threads=threads
            )
            sessions.append(session)
        encoder = TextEncoder.load(folder, manifest)
        return cls(
            manifest,
            Sessions(sessions),
            encoder,
            concurrency=len(devices),
            devices=devices,
            buckets=settings.graphs,
        )

    def apart(self) -> list["Model"]:
        """Return the model on each of its devices by itself, to check and measure each."""
        pairs = zip(self._sessions.apart(), self.devices, strict=True)
        return [
            Model(self.manifest, session, self._encoder, devices=(device,), buckets=self._buckets)
            for session, device in pairs
        ]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """The model's version."""
        return self.manifest.version

    def request(self, inputs: Inputs, budget: float = 1.0) -> Request:
        """Check one caller's input; text is tokenized, an image is decoded, resized and normalised.

        Raises
        ------
        InputError
            Naming the input, what was got and what was expected.
        """
        arrays: Mapping[str, ArrayLike]
        origin: Origin
        if isinstance(inputs, str):
            if self._encoder is None:
                raise self._refused("text", "tokenizer")
            arrays, origin = self._encoder.encode(inputs)
            return self._requests.make(arrays, budget, origin)
        if isinstance(inputs, bytes | Path):
            if self._image_encoder is None:
                raise self._refused("image", "image preprocessor")
            arrays, origin = self._image_encoder.encode(image_content(inputs))
            return self._requests.make(arrays, budget, origin)
        return self._requests.make(inputs, budget)

    def _refused(self, kind: str, lacking: str) -> InputError:
        names = [spec.name for spec in self.manifest.inputs]
        others = [name for name, there in (("text", self._encoder), ("an image", self._image_encoder)) if there]
        expected = f"{' or '.join([*others, f'tensors named {names}'])}: {self.name} has no {lacking}"
        return InputError(kind, got={"text": "text", "image": "an image"}[kind], expected=expected)

    def predict(self, inputs: Inputs, budget: float = 1.0, *, row_counts: bool = False) -> Prediction:
        """Run one request by itself.

        Parameters
        ----------
        inputs
            Arrays by input name, as the manifest has them; or text, where the model has a tokenizer; or an image, as
            its file's path or bytes, where the model has an image preprocessor.
        budget
            The share of the exported k that may be used, 0 < budget <= 1.
        row_counts
            Whether `Prediction.rows` shall tell what each row (token) used, too.

        Raises
        ------
        InputError
            If the input does not fit the model.
        """
        request = self.request(inputs, budget)
        return self.run([replace(request, row_counts=row_counts)]).predictions[0]

    def run(self, requests: Sequence[Request]) -> BatchResult:
        """Run at least one request as one batch.

        Raises
        ------
        LazyneuronError
            If ONNX Runtime fails.
        """
        return self.finish(self.compute(self.prepare(requests)))

    def prepare(self, requests: Sequence[Request]) -> Prepared:
        """Join at least one request into a batch: the first step of `run`, which needs no free session."""
        if len({r.shape_key for r in requests}) != 1 or (len(requests) > 1 and not self.manifest.batchable):
            msg = "these requests cannot share a batch"
            raise ValueError(msg)
        began = time.perf_counter()
        feed = join(self.manifest, requests, self._shape(requests) if self._buckets else None)
        return Prepared(requests, feed, time.perf_counter() - began)

    def _shape(self, requests: Sequence[Request]) -> dict[str, int] | None:
        manifest = self.manifest
        most = self.max_tokens or sys.maxsize
        return bucketed(batch_axes(requests), manifest.max_lengths, most, paddable=manifest.paddable)

    def compute(self, prepared: Prepared) -> Computed:
        """Run a batch in ONNX Runtime: the second step of `run`.

        Raises
        ------
        DeviceMemoryError
            If a GPU has no memory left for it.
        LazyneuronError
            If ONNX Runtime fails.
        """
        started = time.perf_counter()
        try:
            values = self._sessions.run(self._fetches, prepared.feed)
        except Exception as error:
            message = one_line(error)
            if self.devices != (CPU,) and is_out_of_memory(message):
                tokens, where = sum(r.tokens for r in prepared.requests), ", ".join(map(str, self.devices))
                raise DeviceMemoryError(
                    f"{self.name}: a batch of {tokens:,} tokens does not fit into the memory of {where}: {message}"
                ) from error
            raise LazyneuronError(f"{self.name}: ONNX Runtime failed: {message}") from error
        seconds = time.perf_counter() - started
        return Computed(prepared, dict(zip(self._fetches, values, strict=True)), seconds)

    def finish(self, computed: Computed) -> BatchResult:
        """Cut a batch's outputs and counts into its requests' own: the last step of `run`."""
        prepared = computed.prepared
        began = time.perf_counter()
        values = self._of_real(prepared.requests, computed.values) if self._buckets else computed.values
        return self._split(prepared, values, computed.seconds, began)

    def _of_real(self, requests: Sequence[Request], values: Mapping[str, Array]) -> Mapping[str, Array]:
        """Leave out of the counts the examples that are padding, where no mask tells them."""
        examples = sum(request.batch for request in requests)
        unmasked = [b for b in self.manifest.blocks if self.manifest.mask_for(b.rows) is None]
        names = {
            name for b in unmasked if b.rows[:1] == (BATCH_AXIS,) for name in (b.active_output, b.candidates_output)
        }
        return {name: array[:examples] if name in names else array for name, array in values.items()}

    def rejoin(self, request: Request, parts: Sequence[Prediction]) -> Prediction:
        """Return the prediction for a request from those for its parts, in their order (`split`)."""
        outputs = joined_outputs([part.outputs for part in parts])
        sparsity = Sparsity.total([part.sparsity for part in parts])
        rows = joined_rows([part.rows for part in parts])
        return Prediction(outputs, sparsity, partial(self._reader.read, request, outputs), rows)

    def _split(self, prepared: Prepared, values: Mapping[str, Array], seconds: float, began: float) -> BatchResult:
        manifest, requests, feed = self.manifest, prepared.requests, prepared.feed
        counts = self._counting.of(requests, feed, values)
        predictions = []
        first = 0
        for request, sparsity in zip(requests, counts.requests, strict=True):
            outputs = {o.name: cut(values[o.name], o.shape, request, first) for o in manifest.outputs}
            reader = partial(self._reader.read, request, outputs)
            rows = block_rows(manifest, feed, values, request, first) if request.row_counts else ()
            predictions.append(Prediction(outputs, sparsity, reader, rows))
            first += request.batch
        padding = counts.padding
        return BatchResult(
            predictions,
            tokens_real=counts.total.blocks[0].rows,
            tokens_padding=padding.blocks[0].rows,
            flops_padding_computed=padding.flops_executed,
            flops_padding_skipped=padding.flops_saved,
            seconds=seconds,
            examples=first,
            sparsity=counts.total,
            rows=counts.rows,
            input_seconds=prepared.seconds,
            output_seconds=time.perf_counter() - began,
        )
