"""Answers in words, and images as files, over a socket: what our own service, the client and the protocol's give."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import lazyneuron
from lazyneuron.engine.heads import answers
from lazyneuron.engine.model import Model
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol import prediction_pb2 as pb
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.answers import read_answer, write_answer
from tests.support.artifacts import write_image_classifier, write_sequence_encoder, write_text_classifier
from tests.support.server import ServerProcess, serving


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_text_classifier(folder)
    write_image_classifier(folder)
    write_sequence_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def answering(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(models, tmp_path_factory.mktemp("server") / "log") as server:
        yield server
        assert server.terminate() == 0


@pytest.fixture
def stub(answering: ServerProcess) -> Iterator[PredictionServiceStub]:
    with grpc.insecure_channel(answering.grpc) as channel:
        yield PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def picture() -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 200, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def close(one: answers.Answer, other: answers.Answer) -> bool:
    """Whether two classifications are the same up to the batch that they ran in."""
    assert isinstance(one, answers.Classification)
    assert isinstance(other, answers.Classification)
    scores = [c.score for c in one.candidates]
    return one.labels == other.labels and scores == pytest.approx([c.score for c in other.candidates], abs=1e-6)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_text_and_an_image_are_answered_with_labels(stub, models, picture, kind) -> None:
    given = {"text": "lazy neurons sleep", "image": picture}[kind]
    response = stub.Predict(pb.PredictRequest(model_name=kind, **{kind: given}))
    prediction = Model.load(models / kind).predict(given)
    (answer,) = map(read_answer, response.answers)
    assert close(answer, prediction.answer)
    assert sorted(prediction.labels) == ["class 0", "class 1", "class 2"]
    assert sum(c.score for c in answer.candidates) == pytest.approx(1)
    assert [t.name for t in response.outputs] == list(prediction.outputs)


def test_tensors_are_answered_with_tensors_unless_labels_are_asked_for(stub) -> None:
    tensor = pb.Tensor(name="input_ids", datatype="INT64", shape=[2, 3], data=np.array([2, 3, 4, 5, 6, 7]).tobytes())
    request = pb.PredictRequest(model_name="text", inputs=pb.NamedTensors(tensors=[tensor]))
    assert not stub.Predict(request).answers
    request.top = 2
    response = stub.Predict(request)
    assert [len(a.classification.candidates) for a in response.answers] == [2, 2]


def test_what_is_not_wanted_is_not_sent(stub) -> None:
    request = pb.PredictRequest(model_name="text", text="few work", top=0)
    assert not stub.Predict(request).answers
    request = pb.PredictRequest(model_name="text", text="few work", omit_outputs=True)
    response = stub.Predict(request)
    assert not response.outputs
    assert response.answers[0].classification.problem == "single_label"
    assert response.sparsity.blocks


def test_a_model_without_such_a_reading_gives_no_answer(stub) -> None:
    data = np.zeros((1, 2, 16), np.float32).tobytes()
    tensor = pb.Tensor(name="x", datatype="FP32", shape=[1, 2, 16], data=data)
    response = stub.Predict(pb.PredictRequest(model_name="sequence", inputs=pb.NamedTensors(tensors=[tensor]), top=5))
    assert not response.answers
    assert response.outputs


def test_the_client_takes_bytes_and_paths(answering, models, picture, tmp_path) -> None:
    (tmp_path / "picture.jpg").write_bytes(picture)
    expected = Model.load(models / "image").predict(tmp_path / "picture.jpg")
    with lazyneuron.Client(answering.grpc) as client:
        by_path = client.predict("image", tmp_path / "picture.jpg", top=2, outputs=False)
        by_bytes = client.predict("image", picture)
        with pytest.raises(lazyneuron.LazyneuronError, match=r"image: got .*missing\.png .*expected an image file"):
            client.predict("image", tmp_path / "missing.png")
        with pytest.raises(lazyneuron.LazyneuronError, match="top: got -1; expected at least 0"):
            client.predict("image", picture, top=-1)
    assert by_path.labels == expected.labels[:2]
    assert not by_path.outputs
    np.testing.assert_allclose(by_bytes.outputs["logits"], expected.outputs["logits"], rtol=0, atol=1e-5)
    assert close(by_bytes.answer, expected.answer)


@pytest.mark.parametrize(
    ("model", "given", "says"),
    [
        ("image", {"image": b"GIF89a nothing"}, r"image: got 14 bytes.*; expected an image file: JPEG, PNG"),
        ("image", {"image": b""}, r"image: got 0 bytes; expected an image file"),
        (
            "image",
            {"text": "lazy"},
            r"text: got text; expected an image or tensors named \['pixel_values'\]: image has no tok",
        ),
        (
            "text",
            {"image": b"..."},
            r"image: got an image; expected text or tensors named .*: text has no image prepro",
        ),
        ("text", {"text": " "}, r"text: got 0 tokens"),
        ("sequence", {"image": b"..."}, r"image: got an image; expected tensors named \['x', 'attention_mask'\]"),
        ("image", {}, r"input: got neither text, image nor inputs"),
    ],
)
def test_bad_input_is_named(stub, model, given, says) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(pb.PredictRequest(model_name=model, **given))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(says, caught.value.details()), caught.value.details()


def test_the_open_inference_protocol_takes_an_image_too(answering, models, picture) -> None:
    request = oip.ModelInferRequest(model_name="image")
    request.inputs.add(name="image", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    typed = oip.ModelInferRequest(model_name="image")
    typed.inputs.add(
        name="image", datatype="BYTES", shape=[1], contents=oip.InferTensorContents(bytes_contents=[picture])
    )
    expected = Model.load(models / "image").predict(picture).outputs["logits"]
    with grpc.insecure_channel(answering.grpc) as channel:
        service = GRPCInferenceServiceStub(channel)
        for each in (request, typed):
            found = np.frombuffer(service.ModelInfer(each).raw_output_contents[0], np.float32)
            np.testing.assert_allclose(found, expected[0], rtol=0, atol=1e-5)
        request.inputs[0].name = "picture"
        with pytest.raises(grpc.RpcError, match="one BYTES input named 'text' or 'image' and nothing else"):
            service.ModelInfer(request)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCORES = st.floats(allow_nan=False)
PLACES = st.integers(0, 2**40)
SPANS = st.none() | st.tuples(PLACES, PLACES)
CANDIDATES = st.lists(st.builds(answers.Candidate, WORDS, PLACES, SCORES), max_size=3).map(tuple)
BOXES = st.tuples(SCORES, SCORES, SCORES, SCORES)
SIZES = st.none() | st.tuples(st.integers(1, 9000), st.integers(1, 9000))


def many(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(strategy, max_size=3).map(tuple)


@given(
    st.one_of(
        st.builds(answers.Classification, CANDIDATES, st.sampled_from(["single_label", "multi_label", "regression"])),
        st.builds(answers.TokenLabels, many(st.builds(answers.TokenLabel, WORDS, SPANS, CANDIDATES))),
        st.builds(answers.FilledMasks, many(st.builds(answers.FilledMask, PLACES, SPANS, CANDIDATES))),
        st.builds(answers.NextToken, CANDIDATES),
        st.builds(answers.Detections, many(st.builds(answers.Detection, WORDS, PLACES, SCORES, BOXES)), SIZES),
    )
)
def test_an_answer_comes_through_the_wire_as_it_was(answer) -> None:
    assert read_answer(pb.Answer.FromString(write_answer(answer).SerializeToString())) == answer


def test_an_embedding_comes_through_too() -> None:
    answer = answers.Embedding(np.array([0.1, -2.5], np.float32), "model")
    read = read_answer(write_answer(answer))
    assert isinstance(read, answers.Embedding)
    assert (read.vector.tolist(), read.pooling) == (answer.vector.tolist(), "model")
    assert read.vector.dtype == np.float32


def test_an_answer_of_a_kind_to_come_is_passed_over() -> None:
    assert read_answer(pb.Answer()) is None
