"""A request in parts is the request."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.model import Model
from lazyneuron.engine.splitting import split
from tests.support.artifacts import write_sequence_encoder, write_text_classifier, write_vector_model


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    folders = [write_sequence_encoder(folder), write_text_classifier(folder), write_vector_model(folder)]
    return {path.parent.name: Model.load(path, threads=1) for path in folders}


def inputs_of(name: str, batch: int, length: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    mask[random.random((batch, length)) < 0.2] = 0
    mask[:, 0] = 1
    match name:
        case "vector":
            return {"x": random.normal(size=(batch, 16)).astype(np.float32)}
        case "sequence":
            return {"x": random.normal(size=(batch, length, 16)).astype(np.float32), "attention_mask": mask}
        case _:
            return {"input_ids": random.integers(1, 12, (batch, length)), "attention_mask": mask}


@given(
    st.sampled_from(["vector", "sequence", "text"]),
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(0, 99),
)
def test_parts_fit_and_give_what_the_whole_gives(models, name, batch, length, most, seed):
    model = models[name]
    request = model.request(inputs_of(name, batch, length, seed))
    parts = split(model.manifest, request, most)
    assert sum(part.batch for part in parts) == batch
    assert all(part.tokens <= most or part.batch == 1 for part in parts)
    assert max(part.batch for part in parts) - min(part.batch for part in parts) <= 1
    whole = model.run([request]).predictions[0]
    if len(parts) == 1:
        return
    joined = model.rejoin(request, [model.run([part]).predictions[0] for part in parts])
    assert joined.sparsity == whole.sparsity
    assert joined.outputs.keys() == whole.outputs.keys()
    for key, value in whole.outputs.items():
        np.testing.assert_allclose(joined.outputs[key], value, rtol=1e-5, atol=1e-6)
    assert [a.labels for a in joined.read(2)] == [a.labels for a in whole.read(2)]


def test_what_cannot_be_joined_is_not_cut(models):
    request = models["vector"].request({"x": np.ones((8, 16), np.float32)})
    shape = ("other", 16)
    inputs = (models["vector"].manifest.inputs[0].model_copy(update={"shape": shape}),)
    unbatchable = models["vector"].manifest.model_copy(update={"inputs": inputs})
    assert split(unbatchable, request, 2) == [request]
