"""What each row used adds up to what its request used, whatever it ran beside."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lazyneuron.engine.model import Model
from lazyneuron.engine.requests import Request
from lazyneuron.engine.splitting import split
from tests.support.artifacts import write_sequence_encoder, write_text_classifier, write_vector_model

TEXTS = ["lazy neurons sleep", "few", "few neurons work and save time and energy while lazy neurons sleep"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_text_classifier(folder)
    write_sequence_encoder(folder)
    write_vector_model(folder)
    return folder


def asked(model: Model, *inputs: object) -> list[Request]:
    return [replace(model.request(given), row_counts=True) for given in inputs]  # type: ignore[arg-type]


def test_each_token_of_a_text(folder: Path) -> None:
    model = Model.load(folder / "text")
    together = model.run(asked(model, *TEXTS)).predictions  # padded to the longest
    for text, prediction in zip(TEXTS, together, strict=True):
        alone = model.predict(text, row_counts=True)
        assert [text[slice(*token.span)] for token in alone.rows[0].tokens if token.span] == text.split()
        for mine, own, total in zip(prediction.rows, alone.rows, prediction.sparsity.blocks, strict=True):
            np.testing.assert_array_equal(mine.active, own.active)
            assert mine.active.shape == (1, len(text.split())) == mine.real.shape
            assert (mine.name, mine.active.sum(), mine.active.size * mine.d_ff) == (
                total.name,
                total.active,
                total.neurons,
            )


def test_only_who_asks_gets_them(folder: Path) -> None:
    model = Model.load(folder / "text")
    requests = [model.request("lazy neurons"), *asked(model, "few")]
    plain, detailed = model.run(requests).predictions
    assert plain.rows == ()
    assert len(detailed.rows) == len(model.manifest.blocks)
    # A copy, or one small request would keep its whole batch in memory.
    assert all(rows.active.base is None for rows in detailed.rows)
    assert model.predict("few").rows == ()


def test_rows_that_the_request_masks_are_told(folder: Path) -> None:
    model = Model.load(folder / "sequence")
    x = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    prediction = model.run(asked(model, {"x": x, "attention_mask": mask})).predictions[0]
    for rows, total in zip(prediction.rows, prediction.sparsity.blocks, strict=True):
        np.testing.assert_array_equal(rows.real, mask != 0)
        assert rows.active[rows.real].sum() == total.active
        assert rows.tokens == ()


def test_parts_are_joined(folder: Path) -> None:
    model = Model.load(folder / "vector")
    x = np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32)
    (whole,) = asked(model, {"x": x})
    parts = split(model.manifest, whole, 3)
    assert len(parts) == 3
    joined = model.rejoin(whole, [model.run([part]).predictions[0] for part in parts])
    for mine, own in zip(joined.rows, model.run([whole]).predictions[0].rows, strict=True):
        np.testing.assert_array_equal(mine.active, own.active)
        assert mine.active.shape == mine.real.shape == (7,)
    unasked = replace(whole, row_counts=False)
    parts = split(model.manifest, unasked, 3)
    assert model.rejoin(unasked, [model.run([part]).predictions[0] for part in parts]).rows == ()
