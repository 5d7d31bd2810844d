import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import lazyneuron
from lazyneuron.engine.errors import ArtifactError, InputError, LazyneuronError
from tests.support.artifacts import Size, write_sequence_encoder, write_text_classifier, write_vector_model

RANDOM = np.random.default_rng(0)
# ONNX Runtime's GEMM may sum in another order for another number of rows.
CLOSE = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_text_classifier(folder)
    write_sequence_encoder(folder, size=Size(top_k=8))
    write_vector_model(folder)
    return folder


@pytest.fixture(scope="module")
def text(repository):
    return lazyneuron.load(repository / "text")


@pytest.fixture(scope="module")
def sequence(repository):
    return lazyneuron.load(repository / "sequence", threads=1)


def rows(length, batch=1):
    return RANDOM.normal(size=(batch, length, 16)).astype(np.float32)


def counts(prediction):
    return [(b.rows, b.active) for b in prediction.sparsity.blocks]


def test_requests_of_unlike_lengths_give_together_what_they_give_alone(sequence):
    inputs = [rows(n, batch) for n, batch in [(3, 1), (9, 2), (1, 1), (5, 3)]]
    alone = [sequence.predict({"x": x}) for x in inputs]
    together = sequence.run([sequence.request({"x": x}) for x in inputs])
    for x, one, joined in zip(inputs, alone, together.predictions, strict=True):
        assert joined.outputs["y"].shape == x.shape
        np.testing.assert_allclose(joined.outputs["y"], one.outputs["y"], **CLOSE)
        assert counts(joined) == counts(one)
    assert together.tokens_real == 3 + 18 + 1 + 15
    assert together.tokens_real + together.tokens_padding == 7 * 9
    assert together.seconds > 0


def test_padding_costs_only_the_dense_up_projection(sequence):
    requests = [sequence.request({"x": rows(n)}) for n in (2, 10)]
    result = sequence.run(requests)
    up = 2 * 16 * 64
    assert result.tokens_padding == 8
    assert result.flops_padding_computed == 8 * 2 * up
    assert result.flops_padding_skipped == 8 * 2 * up


def test_a_masked_row_of_the_callers_own_is_padding_too(text):
    ids, mask = np.array([[2, 3, 4, 0, 0]]), np.array([[1, 1, 1, 0, 0]])
    masked = text.predict({"input_ids": ids, "attention_mask": mask})
    short = text.predict({"input_ids": ids[:, :3]})
    assert counts(masked) == counts(short)
    np.testing.assert_allclose(masked.outputs["logits"], short.outputs["logits"], **CLOSE)


def test_the_counts_are_those_of_numpy(repository):
    import onnx
    from onnx import numpy_helper

    model = lazyneuron.load(repository / "vector")
    graph = onnx.load(repository / "vector" / "1" / "model.onnx").graph
    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in graph.initializer}
    x = RANDOM.normal(size=(20, 16)).astype(np.float32)
    prediction = model.predict({"x": x})
    for index, block in enumerate(prediction.sparsity.blocks):
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        hidden = np.maximum(normal @ weights[f"block_{index}.up"] + weights[f"block_{index}.up_bias"], 0)
        x = x + hidden @ weights[f"block_{index}.down"]
        assert block.active == np.count_nonzero(hidden)
        assert block.flops_executed == 20 * 2 * 16 * 64 + block.active * 2 * 16
    np.testing.assert_allclose(prediction.outputs["logits"], x @ weights["head"], rtol=0, atol=1e-5)


def test_a_budget_is_a_share_of_the_exported_k_of_its_own_request_only(sequence):
    x = rows(6)
    half, whole = sequence.request({"x": x}, 0.5), sequence.request({"x": x}, 1.0)
    together = sequence.run([half, whole]).predictions
    assert max(b.active for b in together[0].sparsity.blocks) <= 6 * 4
    assert counts(together[1]) == counts(sequence.predict({"x": x}))
    assert counts(together[0]) == counts(sequence.predict({"x": x}, budget=0.5))
    assert counts(together[0]) != counts(together[1])


def test_text_goes_in(text):
    by_text = text.predict("lazy neurons sleep")
    by_ids = text.predict({"input_ids": np.array([[2, 3, 4]])})
    np.testing.assert_array_equal(by_text.outputs["logits"], by_ids.outputs["logits"])
    with pytest.raises(InputError, match="text: got 0 tokens; expected 1 to 64"):
        text.predict("")
    with pytest.raises(InputError, match="text: got 65 tokens"):
        text.predict("lazy " * 65)


def test_outputs_are_read_in_words(text):
    prediction = text.predict({"input_ids": np.array([[2, 3, 4], [5, 6, 7]])})
    logits = prediction.outputs["logits"].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for answer, row in zip(prediction.answers, shares, strict=True):
        assert [c.id for c in answer.candidates] == np.argsort(-row).tolist()
        assert {c.label: c.score for c in answer.candidates} == pytest.approx(
            {f"class {i}": share for i, share in enumerate(row)}
        )
    assert prediction.answer == prediction.answers[0]
    assert prediction.labels == prediction.answer.labels
    assert [len(answer.candidates) for answer in prediction.read(top=1)] == [1, 1]
    with pytest.raises(InputError, match="top: got 0; expected at least 1"):
        prediction.read(0)


def test_in_a_batch_each_request_has_its_own_answer(text):
    words = ["lazy", "few neurons work and save time", "sleep while"]
    together = text.run([text.request(w) for w in words]).predictions
    for word, prediction in zip(words, together, strict=True):
        alone = text.predict(word).answer
        assert prediction.labels == alone.labels
        found = [c.score for c in prediction.answer.candidates]
        assert found == pytest.approx([c.score for c in alone.candidates], abs=1e-6)


def test_a_model_without_a_head_gives_no_answer(sequence):
    prediction = sequence.predict({"x": rows(3)})
    assert (prediction.answers, prediction.answer, prediction.labels) == ((), None, ())


def test_text_needs_a_tokenizer(sequence):
    with pytest.raises(InputError, match=r"text: got text; expected tensors named \['x', 'attention_mask'\]"):
        sequence.predict("words")


def test_what_only_onnx_runtime_notices_is_an_error_in_words(text):
    with pytest.raises(LazyneuronError, match=r"text: ONNX Runtime failed: .*out of data bounds"):
        text.predict({"input_ids": np.array([[99]])})
    assert text.predict({"input_ids": np.array([[1]])}).outputs["logits"].shape == (1, 3)


def test_many_threads_share_a_model(sequence):
    inputs = [rows(1 + n % 7) for n in range(40)]
    alone = [sequence.predict({"x": x}) for x in inputs]
    gate = threading.Barrier(8)

    def work(part):
        gate.wait()
        return [sequence.predict({"x": inputs[n]}) for n in part]

    with ThreadPoolExecutor(8) as pool:
        answers = [p for part in pool.map(work, np.array_split(np.arange(40), 8)) for p in part]
    for one, answer in zip(alone, answers, strict=True):
        np.testing.assert_array_equal(answer.outputs["y"], one.outputs["y"])
        assert counts(answer) == counts(one)


def test_a_damaged_artifact_is_refused_with_and_without_digests(repository, tmp_path):
    folder = write_vector_model(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match=r"model\.onnx: 11 bytes, the manifest says \d+ bytes"):
        lazyneuron.load(folder)
    with pytest.raises(ArtifactError, match=r"model\.onnx: ONNX Runtime refuses it"):
        lazyneuron.load(folder, verify=False)
