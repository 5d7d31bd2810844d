import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.artifact import MANIFEST_FILE, read_manifest
from lazyneuron.exporters.bench.undo import dense_model
from lazyneuron.exporters.evaluation.api import evaluate
from lazyneuron.exporters.evaluation.corruptions import corruptions_for, drop_tokens, make_typos
from lazyneuron.exporters.evaluation.labelled import read_labelled
from lazyneuron.exporters.evaluation.noise import NOISES
from lazyneuron.exporters.evaluation.readings import reading_for
from tests.exporters.evaluation.planted import exact, labelled_texts, write_lines
from tests.support.artifacts import write_image_classifier, write_sequence_encoder, write_vector_model


def planned(folder, data):
    dense = dense_model(folder, read_manifest(folder))
    rows = read_labelled(data, dense)
    return rows, *corruptions_for(dense, rows, reading_for(dense, labelled=rows.labelled)[0])


@given(st.text(), st.sampled_from([0.0, 0.1, 1.0]), st.integers(0, 99))
def test_typos_touch_letters_alone(text, share, seed):
    changed = make_typos(text, share, np.random.default_rng(seed))
    assert [c for c in changed if not c.isalpha()] == [c for c in text if not c.isalpha()] or share > 0
    if share == 0:
        assert changed == text


def test_typos_are_about_as_many_as_asked():
    text = "sparsity " * 2000
    changed = make_typos(text, 0.1, np.random.default_rng(0))
    untouched = sum(word == "sparsity" for word in changed.split())
    assert untouched / 2000 == pytest.approx(0.9**8, abs=0.06)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.floats(0, 1), st.integers(0, 99))
def test_special_tokens_stay_and_something_is_left(own, share, seed):
    own = np.array(own)
    stays = drop_tokens(own, share, np.random.default_rng(seed))
    assert stays[~own].all()
    assert stays.any()
    assert not own.any() or stays[own].any()


@pytest.mark.parametrize("kind", NOISES)
def test_noise_grows_and_stays_in_range(kind):
    noise, amounts, _ = NOISES[kind]
    pixels = np.random.default_rng(1).random((64, 64))
    errors = []
    for amount in amounts:
        noisy = noise(pixels, amount, np.random.default_rng(0))
        assert noisy.min() >= 0
        assert noisy.max() <= 1
        errors.append(np.abs(noisy - pixels).mean())
    assert 0 < errors[0] < errors[1] < errors[2]


def test_noise_is_on_pixels_before_normalisation(tmp_path):
    """This model's pixels are −1 to 1: half a range of mean and deviation."""
    pixels = np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", pixel_values=pixels, label=np.arange(4) % 3)
    rows, corruptions, notes = planned(write_image_classifier(tmp_path), tmp_path / "data.npz")
    assert [(c.kind, c.amount) for c in corruptions][::3] == [
        ("Gaussian noise", "deviation 0.08"),
        ("impulse noise", "share 0.03"),
        ("shot noise", "60 photons"),
    ]
    assert notes == []
    row = next(rows.read())
    once, again, other = (corruptions[3].apply(row, place).example["pixel_values"] for place in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()
    changed = once != row.example["pixel_values"]
    assert 0 < changed.mean() < 0.15
    assert set(np.unique(once[changed].round(5))) <= {-1.0, 1.0}


def test_text_is_made_anew_and_tokens_are_dropped(tmp_path):
    data = labelled_texts(tmp_path / "data.jsonl", exact(tmp_path), 20)
    rows, corruptions, _ = planned(tmp_path / "exact" / "1", data)
    assert [c.kind for c in corruptions] == ["typos"] * 3 + ["dropped tokens"] * 3
    before = list(rows.read())
    typos = [corruptions[2].apply(row, i) for i, row in enumerate(before)]
    assert any((a.example["input_ids"] == 1).any() for a in typos)  # words that nobody knows now
    dropped = [corruptions[5].apply(row, i) for i, row in enumerate(before)]
    kept = sum(len(row.example["input_ids"]) for row in dropped) / sum(len(row.example["input_ids"]) for row in before)
    assert 0.65 < kept < 0.95
    assert all(row.example["input_ids"].shape == row.example["attention_mask"].shape for row in dropped)
    assert [row.label for row in dropped] == [row.label for row in before]


def test_corrupted_data_is_harder(tmp_path):
    folder = exact(tmp_path)
    data = labelled_texts(tmp_path / "data.jsonl", folder, 100)
    report = evaluate(folder, data, corruptions=True, threads=1, seconds=0)
    assert len(report.corruptions) == 6
    for case in report.corruptions:
        accuracy = case.metrics[0]
        assert accuracy.metric.name == "accuracy"
        assert accuracy.dense == accuracy.sparse
        assert 0 < case.density < 1
    assert report.corruptions[2].metrics[0].dense < report.metrics[0].dense
    document = json.loads(json.dumps(report.document(), allow_nan=False))
    assert document["corruptions"][0]["kind"] == "typos"


def test_images_as_floats_take_their_range_from_the_data(tmp_path):
    folder = write_image_classifier(tmp_path)
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image": None}))
    pixels = np.random.default_rng(0).uniform(10, 20, (30, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", pixel_values=pixels, label=np.arange(30) % 3)
    rows, corruptions, _ = planned(folder, tmp_path / "data.npz")
    noisy = corruptions[5].apply(next(rows.read()), 0).example["pixel_values"]
    assert noisy.min() == pytest.approx(10, abs=0.01)
    assert noisy.max() == pytest.approx(20, abs=0.01)
    assert noisy.dtype == np.float32


@pytest.mark.parametrize("write", [write_vector_model, write_sequence_encoder])
def test_what_is_neither_image_nor_text_is_left_alone(tmp_path, write):
    shape = [16] if write is write_vector_model else [3, 16]
    folder = write(tmp_path)
    data = write_lines(tmp_path / "data.jsonl", [{"inputs": {"x": np.zeros(shape).tolist()}}])
    _, corruptions, notes = planned(folder, data)
    assert corruptions == []
    assert notes == ["Nothing was corrupted: neither images nor texts go into this model."]
