"""`bench MODEL`: what it runs and counts; never how long that took."""

import json

import numpy as np
import pytest

from lazyneuron.engine.artifact import MANIFEST_FILE, read_manifest
from lazyneuron.engine.errors import ArtifactError, CalibrationError, ConfigurationError, InputError
from lazyneuron.engine.model import Model
from lazyneuron.exporters.bench.artifact import bench_artifact
from tests.support.artifacts import VOCABULARY, Size, write_sequence_encoder, write_text_classifier, write_vector_model


def bench(folder, **options):
    return bench_artifact(folder, threads=1, seconds=0, **options)


@pytest.fixture
def text(tmp_path):
    """A classifier of tokens, with the bounds that an export writes."""
    folder = write_text_classifier(tmp_path, size=Size(density=0.2))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["inputs"][0] |= {"minimum": 0, "maximum": len(VOCABULARY) - 1}
    manifest["max_lengths"] = {"sequence": 40}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def test_every_batch_with_every_length(text):
    report = bench(text, batches=(1, 3), lengths=(4, 9))
    assert [(c.batch, c.length, c.rows) for c in report.cases] == [(1, 4, 4), (1, 9, 9), (3, 4, 12), (3, 9, 27)]
    for case in report.cases:
        assert list(case.seconds) == ["sparse", "dense", "int8"]
        assert list(case.faster) == ["dense", "int8"]
        assert case.off["sparse"] < 1e-5 < case.off["int8"]
        assert 0.05 < case.sparsity.density < 0.5
        assert case.sparsity.blocks[0].rows == case.rows


def test_by_default_the_lengths_that_the_model_takes(text):
    assert [(c.batch, c.length) for c in bench(text).cases] == [(1, 16), (1, 40), (8, 16), (8, 40)]


def test_real_input_is_cut_to_the_length(text, tmp_path):
    lines = [{"text": "lazy neurons sleep"}, {"text": "few"}, {"text": "few work and save time"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = bench(text, batches=(2,), lengths=(3,), calibration=tmp_path / "data.jsonl", against=("dense",))
    (case,) = report.cases
    model = Model.load(text)
    expected = [model.predict(t).sparsity for t in ("lazy neurons sleep", "few work and")]
    assert case.sparsity == expected[0] + expected[1]
    assert report.inputs == "data.jsonl"
    assert report.notes == ()
    with pytest.raises(CalibrationError, match=r"data\.jsonl: 2 examples of length 3 or more; expected at least 3"):
        bench(text, batches=(3,), lengths=(3,), calibration=tmp_path / "data.jsonl")


def test_a_model_without_ragged_axes(tmp_path):
    folder = write_vector_model(tmp_path)
    assert [(c.batch, c.length, c.rows) for c in bench(folder, against=("int8",)).cases] == [(1, None, 1), (8, None, 8)]
    with pytest.raises(InputError, match=r"length: got 4; expected none"):
        bench(folder, lengths=(4,))


def test_a_model_that_is_fixed_to_a_batch(tmp_path):
    folder = write_sequence_encoder(tmp_path)
    path = folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    for spec in manifest["inputs"] + manifest["outputs"]:
        spec["shape"][0] = 2
    path.write_text(json.dumps(manifest | {"budget_input": None}))
    assert [c.batch for c in bench(folder, lengths=(3,)).cases] == [2]
    with pytest.raises(InputError, match=r"batch: got 4; expected 2: the model is fixed to it"):
        bench(folder, batches=(4,))


def test_caps_are_said(tmp_path):
    report = bench(write_text_classifier(tmp_path, size=Size(top_k=2)), batches=(1,), lengths=(4,), against=("dense",))
    assert report.notes[0] == "The dense graph has no top-k: every active neuron counts in it."
    assert report.cases[0].off["sparse"] > 1e-3


def test_the_document_is_plain_json(text):
    document = json.loads(json.dumps(bench(text, batches=(2,), lengths=(5,)).document()))
    assert document["threads"] == 1
    assert document["name"] == read_manifest(text).name
    (case,) = document["cases"]
    assert case["tokens"] == 10
    assert set(case["contenders"]) == {"sparse", "dense", "int8"}
    sparse = case["contenders"]["sparse"]
    low, high = sparse["milliseconds_quartiles"]
    assert low <= sparse["milliseconds"] <= high
    assert np.isclose(sparse["tokens_per_second"], 1e4 / sparse["milliseconds"])
    assert 0 < case["mlp_flops_saved"] < 0.5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lengths": (41,)}, InputError, "length: got 41; expected at most 40, which the model takes"),
        ({"lengths": (0,)}, ConfigurationError, "length is 0; expected a whole number of at least 1"),
        ({"batches": (-1,)}, ConfigurationError, "batch is -1; expected"),
        ({"against": ("torch",)}, ConfigurationError, "against is 'torch'; expected some of dense, int8"),
    ],
)
def test_wrong_settings(text, options, error, message):
    with pytest.raises(error, match=message):
        bench(text, **options)


def test_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="absent: no such folder"):
        bench(tmp_path / "absent")
