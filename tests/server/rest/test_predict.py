"""`POST /v1/models/NAME:predict`: text in, labels out."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lazyneuron.engine.model import Model
from tests.support.artifacts import write_image_classifier
from tests.support.rest import HttpAnswer, ask
from tests.support.server import ServerProcess, serving


def predict(server: ServerProcess, name: str, body: object) -> HttpAnswer:
    return ask(server.http, "POST", f"/v1/models/{name}:predict", body)


def test_models(server: ServerProcess) -> None:
    assert ask(server.http, "GET", "/v1/models").json == {"models": ["sequence", "text", "vector"]}
    assert ask(server.http, "GET", "/v1/models/text").json == {"name": "text", "ready": True}
    assert ask(server.http, "GET", "/v1/models/text/versions/1").status == 200
    assert ask(server.http, "GET", "/v1/models/text/versions/2").status == 503
    assert ask(server.http, "GET", "/v1/models/broken").status == 503
    assert ask(server.http, "GET", "/v1/models/nothing").status == 404


def test_a_text(server: ServerProcess, repository: Path) -> None:
    answer = predict(server, "text", {"text": "lazy neurons sleep"}).json
    expected = Model.load(repository / "text").predict("lazy neurons sleep")
    assert (answer["model_name"], answer["model_version"]) == ("text", "1")
    (prediction,) = answer["predictions"]
    assert tuple(prediction["labels"]) == expected.labels
    assert prediction["answer"]["kind"] == "classification"
    scores = [candidate["score"] for candidate in prediction["answer"]["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert prediction["flops_executed"] == expected.sparsity.flops_executed
    assert "outputs" not in prediction


def test_several_texts_are_several_requests(server: ServerProcess, repository: Path) -> None:
    texts = ["lazy neurons", "few work and save energy", "sleep"] * 20
    before = server.total("lazyneuron_requests_total", model="text", code="OK")
    body = {"instances": [*texts[:-1], {"text": texts[-1]}], "top": 1, "budget": 0.5, "outputs": True}
    predictions = ask(server.http, "POST", "/v1/models/text/versions/1:predict", body).json["predictions"]
    assert server.total("lazyneuron_requests_total", model="text", code="OK") == before + len(texts)
    model = Model.load(repository / "text")
    for text, prediction in zip(texts, predictions, strict=True):
        expected = model.predict(text, budget=0.5)
        logits = expected.outputs["logits"][0]
        np.testing.assert_allclose(prediction["outputs"]["logits"], logits, atol=1e-5 * float(np.abs(logits).max()))
        assert len(prediction["labels"]) == 1


def test_tensors_have_no_batch_axis(server: ServerProcess, repository: Path) -> None:
    x = np.random.default_rng(3).normal(size=(5, 16)).astype(np.float32)
    body = {"instances": [{"x": x.tolist()}, {"x": x.tolist(), "attention_mask": [1, 1, 1, 0, 0]}], "outputs": True}
    predictions = predict(server, "sequence", body).json["predictions"]
    model = Model.load(repository / "sequence")
    for prediction, mask in zip(predictions, (np.ones(5, np.int64), np.array([1, 1, 1, 0, 0])), strict=True):
        expected = model.predict({"x": x[None], "attention_mask": mask[None]}).outputs["y"][0]
        np.testing.assert_allclose(prediction["outputs"]["y"], expected, atol=1e-5 * float(np.abs(expected).max()))


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[ServerProcess]:
    write_image_classifier(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "server.log") as server:
        yield server
        assert server.terminate() == 0


def test_an_image(pictures: ServerProcess, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 255, (20, 30, 3), np.uint8)).save(file, "PNG")
    instance = {"image": {"b64": base64.b64encode(file.getvalue()).decode()}}
    (prediction,) = predict(pictures, "image", {"instances": [instance], "top": 2}).json["predictions"]
    expected = Model.load(tmp_path / "models" / "image").predict(file.getvalue())
    assert prediction["labels"] == list(expected.labels[:2])


REFUSED: dict[str, tuple[int, str, object, str]] = {
    "unknown model": (404, "nothing", {"text": "a"}, "no model named 'nothing'"),
    "no JSON": (400, "text", b"lazy", "not JSON"),
    "unknown key": (400, "text", {"texts": []}, "body.texts: got it; expected one of instances, text"),
    "both": (400, "text", {"text": "a", "instances": []}, "body: got instances and text; expected one of them"),
    "neither": (400, "text", {}, "body: got neither"),
    "no instances": (400, "text", {"instances": []}, "instances: got 0; expected 1 to 256"),
    "too many": (400, "text", {"instances": ["a"] * 257}, "instances: got 257; expected 1 to 256"),
    "a number": (400, "text", {"instances": [7]}, r"instances\[0\]: got int; expected a text"),
    "no such input": (400, "text", {"instances": [{"y": 1}]}, r"instances\[0\]: got the keys \['y'\].*input_ids"),
    "no tokenizer": (400, "vector", {"text": "a"}, "text: got text; expected tensors named"),
    "one of several": (400, "vector", {"instances": [{"x": [0.0] * 16}, "a"]}, r"instances\[1\]: text: got text"),
    "a wrong shape": (400, "vector", {"instances": [{"x": [0.0] * 15}]}, r"x: got shape \[1, 15\]"),
    "no base64": (400, "text", {"instances": [{"image": {"b64": "é"}}]}, r"instances\[0\].image.b64: got text that is"),
    "top": (400, "text", {"text": "a", "top": -1}, "top: got -1; expected a whole number"),
    "budget": (400, "text", {"text": "a", "budget": "half"}, "budget: got 'half'; expected a number"),
    "timeout": (400, "text", {"text": "a", "timeout_seconds": 0}, "timeout_seconds: got 0.0; expected seconds"),
    "outputs": (400, "text", {"text": "a", "outputs": 1}, "outputs: got int; expected true or false"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(server: ServerProcess, kind: str) -> None:
    status, name, body, words = REFUSED[kind]
    answer = predict(server, name, body)
    assert answer.status == status
    assert re.search(words, answer.error), answer.error
