"""A loaded model: checked requests in, outputs with counts out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from lazyneuron.engine.accounting import BlockCounts, Sparsity, block_counts
from lazyneuron.engine.artifact import (
    MODEL_FILE,
    BlockPlan,
    Manifest,
    read_manifest,
    resolve_version,
    verify_files,
)
from lazyneuron.engine.collate import cut, join
from lazyneuron.engine.errors import InputError, LazyneuronError
from lazyneuron.engine.heads.answers import Answer
from lazyneuron.engine.heads.reader import TOP, Reader
from lazyneuron.engine.image import ImageEncoder
from lazyneuron.engine.origins import Origin, image_content
from lazyneuron.engine.requests import Array, Request, make_request
from lazyneuron.engine.session import open_session
from lazyneuron.engine.text import TextEncoder

__all__ = ["BatchResult", "Inputs", "Model", "Prediction"]

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
    """

    outputs: Mapping[str, Array]
    sparsity: Sparsity
    reader: Callable[[int], tuple[Answer, ...]] = field(default=lambda _: (), repr=False)

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
    """

    predictions: list[Prediction]
    tokens_real: int
    tokens_padding: int
    flops_padding_computed: int
    flops_padding_skipped: int
    seconds: float


class Model:
    """An artifact in ONNX Runtime. Safe to call from several threads.

    Parameters
    ----------
    manifest
        What the artifact says of itself.
    session
        Its graph.
    encoder
        Its tokenizer, where text goes in.
    """

    def __init__(self, manifest: Manifest, session: ort.InferenceSession, encoder: TextEncoder | None) -> None:
        self.manifest = manifest
        self._session = session
        self._encoder = encoder
        self._image_encoder = None if manifest.image is None else ImageEncoder(manifest.image)
        self._reader = Reader(manifest, encoder)
        counts = [(b.active_output, b.candidates_output) for b in manifest.blocks]
        self._fetches = [o.name for o in manifest.outputs] + [n for pair in counts for n in pair if n is not None]

    @classmethod
    def load(
        cls, path: str | Path, *, threads: int | None = None, verify: bool = True, spinning: bool = False
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

        Raises
        ------
        ArtifactError
            If the artifact is missing, damaged or of another format version.
        """
        folder = resolve_version(Path(path))
        manifest = read_manifest(folder)
        if verify:
            verify_files(folder, manifest)
        session = open_session(folder / MODEL_FILE, threads=threads, spinning=spinning)
        return cls(manifest, session, TextEncoder.load(folder, manifest))

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
            return make_request(self.manifest, arrays, budget, origin)
        if isinstance(inputs, bytes | Path):
            if self._image_encoder is None:
                raise self._refused("image", "image preprocessor")
            arrays, origin = self._image_encoder.encode(image_content(inputs))
            return make_request(self.manifest, arrays, budget, origin)
        return make_request(self.manifest, inputs, budget)

    def _refused(self, kind: str, lacking: str) -> InputError:
        names = [spec.name for spec in self.manifest.inputs]
        others = [name for name, there in (("text", self._encoder), ("an image", self._image_encoder)) if there]
        expected = f"{' or '.join([*others, f'tensors named {names}'])}: {self.name} has no {lacking}"
        return InputError(kind, got={"text": "text", "image": "an image"}[kind], expected=expected)

    def predict(self, inputs: Inputs, budget: float = 1.0) -> Prediction:
        """Run one request by itself.

        Parameters
        ----------
        inputs
            Arrays by input name, as the manifest has them; or text, where the model has a tokenizer; or an image, as
            its file's path or bytes, where the model has an image preprocessor.
        budget
            The share of the exported k that may be used, 0 < budget <= 1.

        Raises
        ------
        InputError
            If the input does not fit the model.
        """
        return self.run([self.request(inputs, budget)]).predictions[0]

    def run(self, requests: Sequence[Request]) -> BatchResult:
        """Run at least one request as one batch.

        Raises
        ------
        LazyneuronError
            If ONNX Runtime fails.
        """
        if len({r.shape_key for r in requests}) != 1 or (len(requests) > 1 and not self.manifest.batchable):
            msg = "these requests cannot share a batch"
            raise ValueError(msg)
        feed = join(self.manifest, requests)
        started = time.perf_counter()
        try:
            values = self._session.run(self._fetches, feed)
        except Exception as error:
            raise LazyneuronError(f"{self.name}: ONNX Runtime failed: {' '.join(str(error).split())}") from error
        seconds = time.perf_counter() - started
        return self._split(requests, feed, dict(zip(self._fetches, values, strict=True)), seconds)

    def _split(
        self,
        requests: Sequence[Request],
        feed: Mapping[str, Array],
        values: Mapping[str, Array],
        seconds: float,
    ) -> BatchResult:
        predictions = []
        first = 0
        for request in requests:
            outputs = {o.name: cut(values[o.name], o.shape, request, first) for o in self.manifest.outputs}
            counts = [self._counts(block, feed, values, request, first) for block in self.manifest.blocks]
            reader = partial(self._reader.read, request, outputs)
            predictions.append(Prediction(outputs, Sparsity(tuple(counts)), reader))
            first += request.batch
        real = Sparsity.total([p.sparsity for p in predictions])
        padding = [self._padding(block, feed, values) for block in self.manifest.blocks]
        return BatchResult(
            predictions,
            tokens_real=real.blocks[0].rows,
            tokens_padding=padding[0].rows,
            flops_padding_computed=sum(p.flops_executed for p in padding),
            flops_padding_skipped=sum(p.flops_dense - p.flops_executed for p in padding),
            seconds=seconds,
        )

    def _counts(
        self,
        block: BlockPlan,
        feed: Mapping[str, Array],
        values: Mapping[str, Array],
        request: Request,
        first: int,
    ) -> BlockCounts:
        """Return what `block` did over the real rows of `request`."""
        active = cut(values[block.active_output], block.rows, request, first)
        mask = self.manifest.mask_for(block.rows)
        real = np.ones(active.shape, bool) if mask is None else cut(feed[mask.name], block.rows, request, first) != 0
        candidates = None
        if block.candidates_output is not None:
            candidates = _sum(cut(values[block.candidates_output], block.rows, request, first), real)
        return block_counts(block, rows=int(real.sum()), active=_sum(active, real), candidates=candidates)

    def _padding(self, block: BlockPlan, feed: Mapping[str, Array], values: Mapping[str, Array]) -> BlockCounts:
        """Return what `block` did over the batch's padding rows; `flops_dense` is what they would cost unskipped."""
        mask = self.manifest.mask_for(block.rows)
        if mask is None:
            return block_counts(block, rows=0, active=0)
        padding = feed[mask.name] == 0
        rows = int(padding.sum())
        active = _sum(values[block.active_output], padding)
        if block.candidates_output is None:  # the up projection is computed for every row
            return block_counts(block, rows=rows, active=active)
        candidates = values[block.candidates_output]
        # A row of budget 0 is not even screened; a predictor's products, outside the operator, are done for every row.
        computed = rows if block.mode == "predictor" else int(np.count_nonzero(candidates[padding]))
        counts = block_counts(block, rows=computed, active=active, candidates=_sum(candidates, padding))
        return replace(counts, rows=rows, flops_dense=rows * block.flops.dense_per_row)


def _sum(counts: Array, where: NDArray[np.bool_] | bool = True) -> int:
    return int(np.sum(counts, dtype=np.int64, where=where))
