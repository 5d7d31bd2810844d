"""Bound buffers and captured shapes, run for real on the CPU: the outputs are those of a plain session."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lazyneuron.engine.artifact import MODEL_FILE, read_manifest
from lazyneuron.engine.devices.binding import BoundSession, GraphSession, Tensors
from lazyneuron.engine.devices.choice import Device
from lazyneuron.engine.devices.host_memory import pageable
from lazyneuron.engine.model import Model
from lazyneuron.engine.session import Sessions, open_session
from tests.support.artifacts import write_sequence_encoder, write_text_classifier, write_vector_model

WRITERS = {"text": write_text_classifier, "sequence": write_sequence_encoder, "vector": write_vector_model}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: write(root) for kind, write in WRITERS.items()}


def feeds(kind: str) -> list[dict[str, np.ndarray]]:
    """Batches of several shapes, each twice and with other numbers."""
    random = np.random.default_rng(0)
    made = []
    for batch, length in [(1, 3), (2, 5), (1, 3), (4, 9), (2, 5), (1, 3), (1, 1)]:
        feed = {"budget": np.linspace(0.5, 1.0, batch, dtype=np.float32)}
        if kind == "vector":
            feed["x"] = random.normal(size=(batch, 16)).astype(np.float32)
        else:
            feed["attention_mask"] = np.ones((batch, length), np.int64)
            feed["attention_mask"][-1, length - 1 :] = length == 1
            if kind == "text":
                feed["input_ids"] = random.integers(0, 12, (batch, length))
            else:
                feed["x"] = random.normal(size=(batch, length, 16)).astype(np.float32)
        made.append(feed)
    return made


def fetches_of(folder: Path) -> list[str]:
    return list(Tensors.of(read_manifest(folder)).outputs)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("session", [BoundSession, GraphSession])
def test_the_outputs_are_those_of_a_plain_session(
    folders: dict[str, Path], kind: str, session: type[BoundSession]
) -> None:
    folder = folders[kind]
    manifest = read_manifest(folder)
    plain = open_session(folder / MODEL_FILE, threads=1)
    bound = session(open_session(folder / MODEL_FILE, threads=1), Tensors.of(manifest))
    fetches = fetches_of(folder)
    kept = []
    for feed in feeds(kind):
        expected = plain.run(fetches, feed)
        kept.append((expected, bound.run(fetches, feed)))
    for expected, got in kept:  # afterwards: no later run has written over an earlier one's arrays
        for name, one, other in zip(fetches, expected, got, strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            np.testing.assert_array_equal(one, other, err_msg=name)
    if isinstance(bound, GraphSession):
        assert bound.captured == 2  # the shapes that came more than once


def test_an_output_whose_shape_depends_on_values(folders: dict[str, Path]) -> None:
    folder = folders["text"]
    tensors = Tensors.of(read_manifest(folder))
    less = Tensors(tensors.inputs, {n: spec for n, spec in tensors.outputs.items() if n != "hidden"})
    fetches, feed = list(tensors.outputs), feeds("text")[1]
    expected = open_session(folder / MODEL_FILE, threads=1).run(fetches, feed)
    graphs = GraphSession(open_session(folder / MODEL_FILE, threads=1), less)
    for _ in range(3):
        for one, other in zip(expected, graphs.run(fetches, feed), strict=True):
            np.testing.assert_array_equal(one, other)
    assert graphs.captured == 0


def test_buffers_stay_and_grow(folders: dict[str, Path]) -> None:
    sizes: list[int] = []

    def allocate(size: int) -> np.ndarray:
        sizes.append(size)
        return pageable(size)

    folder = folders["sequence"]
    bound = BoundSession(open_session(folder / MODEL_FILE, threads=1), Tensors.of(read_manifest(folder)), allocate)
    fetches = fetches_of(folder)
    for feed in feeds("sequence"):
        bound.run(fetches, feed)
    after = len(sizes)
    for feed in feeds("sequence"):
        bound.run(fetches, feed)
    assert len(sizes) == after
    assert after <= 3 * (len(fetches) + 3)


def test_a_capture_that_fails_leaves_nothing_behind(folders: dict[str, Path]) -> None:
    folder = folders["text"]
    graphs = GraphSession(open_session(folder / MODEL_FILE, threads=1), Tensors.of(read_manifest(folder)))
    fetches, feed = fetches_of(folder), feeds("text")[1]
    expected = graphs.run(fetches, feed)
    bad = {**feed, "input_ids": np.full_like(feed["input_ids"], 10**6)}
    with pytest.raises(Exception, match="out of data bounds"):
        graphs.run(fetches, bad)
    assert graphs.captured == 0
    for one, other in zip(expected, graphs.run(fetches, feed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert graphs.captured == 1


def test_several_threads_share_it(folders: dict[str, Path]) -> None:
    folder = folders["sequence"]
    bound = GraphSession(open_session(folder / MODEL_FILE, threads=1), Tensors.of(read_manifest(folder)))
    fetches, together = fetches_of(folder), threading.Barrier(4)
    plain = open_session(folder / MODEL_FILE, threads=1)

    def work(number: int) -> None:
        together.wait()
        for feed in feeds("sequence"):
            feed["x"] = feed["x"] + np.float32(number)
            for one, other in zip(plain.run(fetches, feed), bound.run(fetches, feed), strict=True):
                np.testing.assert_array_equal(one, other)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_batch_padded_to_a_bucket_gives_what_it_gives_alone(folders: dict[str, Path], kind: str) -> None:
    folder = folders[kind]
    manifest = read_manifest(folder)
    plain = Model.load(folder, threads=1)
    session = BoundSession(open_session(folder / MODEL_FILE, threads=1), Tensors.of(manifest))
    model = Model(manifest, Sessions([session]), None, devices=(Device("cuda", 0),), buckets=True)
    every = feeds(kind)
    requests = [
        model.request({n: a for n, a in feed.items() if n != "budget"}, budget) for feed, budget in
        zip(every[:5], (1.0, 0.5, 1.0, 0.25, 1.0), strict=True)
    ]  # fmt: skip
    prepared = model.prepare(requests)
    shapes = {
        array.shape[:2] if kind != "vector" else array.shape[:1] for n, array in prepared.feed.items() if n != "budget"
    }
    assert shapes == ({(12, 16)} if kind != "vector" else {(12,)})
    assert (prepared.feed["budget"][10:] == 0).all()
    result = model.finish(model.compute(prepared))
    expected = [plain.run([request]) for request in requests]
    for prediction, alone in zip(result.predictions, expected, strict=True):
        for name, output in alone.predictions[0].outputs.items():
            np.testing.assert_allclose(prediction.outputs[name], output, rtol=1e-5, atol=1e-6)
        assert prediction.sparsity == alone.predictions[0].sparsity
    assert result.tokens_real == sum(alone.tokens_real for alone in expected)
    if kind != "vector":
        assert result.tokens_real + result.tokens_padding == 12 * 16
    rows = sum(counts.active.size for counts in result.rows[:1])
    assert rows == (12 * 16 if kind != "vector" else 10)


def test_a_bucket_larger_than_a_batch_may_be_is_not_used(folders: dict[str, Path]) -> None:
    manifest = read_manifest(folders["text"])
    session = open_session(folders["text"] / MODEL_FILE, threads=1)
    model = Model(manifest, session, None, devices=(Device("cuda", 0),), buckets=True)
    model.max_tokens = 20
    request = model.request({"input_ids": np.full((3, 5), 2)})
    assert model.prepare([request]).feed["input_ids"].shape == (3, 5)
