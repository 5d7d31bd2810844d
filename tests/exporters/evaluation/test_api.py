"""`evaluate` on planted artifacts: what it finds, and what it refuses; never how fast they are."""

import json
from functools import partial

import numpy as np
import pytest
import torch

import lazyneuron
from lazyneuron.engine.artifact import read_manifest
from lazyneuron.engine.errors import CalibrationError, ConfigurationError
from lazyneuron.engine.model import Model
from lazyneuron.exporters.evaluation import api
from lazyneuron.exporters.evaluation.api import evaluate
from tests.exporters.evaluation.planted import capped, change_manifest, exact, labelled_texts, set_threshold, texts
from tests.exporters.evaluation.planted import write_lines as write
from tests.support.artifacts import write_image_classifier, write_sequence_encoder, write_vector_model
from tests.support.checkpoints import bert, opt


def run(folder, data, **options):
    return evaluate(folder, data, threads=1, seconds=0, **({"memory": False} | options))


def metrics(report):
    return {measured.metric.name: measured for measured in report.metrics}


@pytest.fixture
def data(tmp_path):
    return labelled_texts(tmp_path / "data.jsonl", exact(tmp_path / "reference"))


def test_an_exact_artifact_loses_nothing(tmp_path, data):
    report = run(exact(tmp_path), data)
    assert (report.examples, report.labelled) == (120, True)
    found = metrics(report)
    assert list(found) == ["accuracy", "expected calibration error", "agreement", "relative error"]
    accuracy = report.metrics[0]
    assert (accuracy.dense, accuracy.sparse, accuracy.interval, accuracy.loss_interval) == (1, 1, (0, 0), (0, 0))
    assert found["relative error"].sparse < 1e-5
    assert report.verdict.decision in {"go", "not worth it"}  # as fast as it happens to be here
    assert report.notes == ()


def test_what_is_skipped_is_what_serving_counts(tmp_path, data):
    folder = exact(tmp_path)
    report = run(folder, data)
    model = Model.load(folder, threads=1)
    texts = [json.loads(line)["text"] for line in data.read_text().splitlines()]
    expected = [model.predict(text).sparsity for text in texts]
    assert report.sparsity.blocks == sum(expected[1:], expected[0]).blocks
    assert 0.3 < report.sparsity.density < 0.7
    assert [case.batch for case in report.speed] == [1, 8]


def test_a_cap_loses_and_it_is_found(tmp_path, data):
    report = run(capped(tmp_path), data)
    accuracy = report.metrics[0]
    assert accuracy.dense == 1
    assert accuracy.loss > 0.05
    low, high = accuracy.loss_interval
    assert 0 < low < accuracy.loss < high
    assert accuracy.sparse == metrics(report)["agreement"].sparse  # the labels are what the dense graph says
    assert report.verdict.decision == "no-go"
    assert report.verdict.sentence.startswith("no-go: the artifact loses more than 1.00%: accuracy 100.00% → ")
    assert report.notes == ("The dense graph has no top-k: every active neuron counts in it.",)


def test_the_loss_that_is_allowed_is_the_users(tmp_path, data):
    assert run(capped(tmp_path), data, max_quality_drop=1.0).verdict.decision in {"go", "not worth it"}


def test_a_wrong_artifact_is_a_no_go(tmp_path, data):
    report = run(set_threshold(exact(tmp_path), 1e6), data)
    assert report.sparsity.density == 0.0
    assert report.metrics[0].loss_interval[0] > 0
    assert report.verdict.decision == "no-go"


def test_figures_are_the_same_each_time(tmp_path, data):
    folder = capped(tmp_path)
    first, second = run(folder, data), run(folder, data)
    assert first.metrics == second.metrics
    assert first.outputs == second.outputs


def test_without_labels_agreement_is_told(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"text": text} for text in texts(40)])
    report = run(capped(tmp_path), data)
    assert report.metrics[0].metric.name == "agreement"
    assert report.metrics[0].dense == 1 > report.metrics[0].sparse
    assert "The data has no labels" in report.notes[0]
    assert "40 examples are few: confidence intervals are rough." in report.notes


def test_npz_and_lines_are_judged_alike(tmp_path):
    folder = write_vector_model(tmp_path)
    x = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    labels = np.arange(50) % 3
    np.savez(tmp_path / "data.npz", x=x, label=labels)
    lines = [{"inputs": {"x": row.tolist()}, "label": int(label)} for row, label in zip(x, labels, strict=True)]
    write(tmp_path / "data.jsonl", lines)
    reports = [run(folder, tmp_path / f"data.{kind}") for kind in ("npz", "jsonl")]
    assert reports[0].metrics == reports[1].metrics
    model = Model.load(folder, threads=1)
    expected = np.mean(model.predict({"x": x}).outputs["logits"].argmax(-1) == labels)
    assert reports[0].metrics[0].sparse == pytest.approx(expected)


def test_labels_by_name(tmp_path, data):
    named = [json.loads(line) for line in data.read_text().splitlines()]
    for document in named:
        document["label"] = f"class {document['label']}"
    assert run(exact(tmp_path), write(tmp_path / "named.jsonl", named)).metrics[0].sparse == 1


def test_many_labels_and_values(tmp_path):
    x = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
    folder = write_vector_model(tmp_path)
    logits = Model.load(folder, threads=1).predict({"x": x}).outputs["logits"]
    both = [
        ("multi_label", [np.flatnonzero(row > 0).tolist() for row in logits], "accuracy", 1.0),
        ("regression", (logits + 0.5).tolist(), "mean squared error", 0.25),
    ]
    for problem, labels, name, value in both:
        lines = [{"inputs": {"x": row.tolist()}, "label": label} for row, label in zip(x, labels, strict=True)]
        write(tmp_path / "data.jsonl", lines)
        report = run(change_manifest(folder, problem=problem), tmp_path / "data.jsonl")
        assert report.metrics[0].metric.name == name
        assert report.metrics[0].dense == pytest.approx(value, rel=1e-5)
        assert report.metrics[0].loss == pytest.approx(0, abs=1e-5)


def test_embeddings_by_their_neighbours(tmp_path):
    folder = change_manifest(write_sequence_encoder(tmp_path), task="feature-extraction")
    rng = np.random.default_rng(0)
    lines = [{"inputs": {"x": rng.normal(size=(rng.integers(2, 9), 16)).tolist()}} for _ in range(30)]
    report = run(folder, write(tmp_path / "data.jsonl", lines + lines[:3]))  # with the same one twice
    assert [(m.metric.name, m.sparse) for m in report.metrics[:2]] == [
        ("same nearest neighbour", 1.0),
        ("cosine", pytest.approx(1)),
    ]
    alone = run(folder, write(tmp_path / "data.jsonl", lines[:1]))
    assert alone.metrics[0].metric.name == "cosine"


def exported(tmp_path, write_checkpoint, documents):
    """Export a random checkpoint; return PyTorch's model, the report and the data."""
    model = write_checkpoint(tmp_path / "checkpoint")
    data = write(tmp_path / "data.jsonl", documents)
    lazyneuron.export(tmp_path / "checkpoint", tmp_path / "model", calibration=data, mode="exact")
    return model, run(tmp_path / "model", data)


def test_a_causal_language_model_by_its_texts(tmp_path):
    lines = ["lazy neurons sleep", "few of them work", "time"]
    model, report = exported(tmp_path, opt, [{"text": text} for text in lines])
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "1" / "tokenizer.json"))
    losses, rights, count = 0.0, 0, 0
    for text in lines:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        rights += int((logits.argmax(-1) == ids[0, 1:]).sum())
        count += ids.shape[1] - 1
    assert report.metrics[0].metric.name == "perplexity"
    assert report.metrics[0].dense == pytest.approx(np.exp(losses / count), rel=1e-4)
    assert report.metrics[0].sparse == pytest.approx(np.exp(losses / count), rel=1e-4)
    assert metrics(report)["token accuracy"].dense == pytest.approx(rights / count)


def test_a_masked_language_model_by_what_was_masked(tmp_path):
    documents = [{"text": "the lazy neurons sleep while few of them work"}, {"text": "save much time"}] * 4
    _, report = exported(tmp_path, partial(bert, kind="ForMaskedLM"), documents)
    assert report.metrics[0].metric.name == "perplexity"
    assert report.metrics[0].dense > 1
    assert report.metrics[0].loss == pytest.approx(0, abs=1e-4)


def test_a_token_classifier_by_its_labels(tmp_path):
    documents = [{"text": "the lazy neurons", "label": [-100, 1, 0, 1, -100]}] * 3
    _, report = exported(tmp_path, partial(bert, kind="ForTokenClassification"), documents)
    assert report.metrics[0].metric.name == "token accuracy"
    assert report.metrics[0].dense * 3 == pytest.approx(round(report.metrics[0].dense * 3))
    wrong = write(tmp_path / "wrong.jsonl", [{"text": "the lazy neurons", "label": [1, 0]}])
    with pytest.raises(CalibrationError, match=r"line 1: got 2 labels; expected a list of 5, one a token"):
        run(tmp_path / "model", wrong)


def test_the_document_is_plain_json(tmp_path, data):
    folder = exact(tmp_path)
    document = json.loads(json.dumps(run(folder, data).document(), allow_nan=False))
    assert document["name"] == read_manifest(folder).name
    assert document["metrics"][0]["name"] == "accuracy"
    assert document["verdict"]["sentence"].startswith(document["verdict"]["decision"])
    assert 0 < document["mlp_flops_saved"] < 0.5
    assert document["memory"]["sparse_bytes"] > 0 < document["memory"]["dense_bytes"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], r"data\.jsonl: it holds no examples"),
        ([{"text": "lazy", "label": 3}], r"line 1: label is 3; expected 0 to 2, or one of class 0, class 1, class 2"),
        ([{"text": "lazy", "label": True}], r"line 1: label is True; expected 0 to 2"),
        ([{"text": "lazy", "label": "class 9"}], r"line 1: label is 'class 9'; expected 0 to 2, or one of"),
        ([{"text": "lazy", "label": [1]}], r"line 1: label is \[1\]; expected 0 to 2"),
        (
            [{"text": "lazy", "label": 1}, {"text": "few"}],
            r"line 2: no label, though the first example has one; expected all or none",
        ),
        (
            [{"text": "lazy"}, {"text": "few", "label": 1}],
            r"line 2: a label, though the first example has none; expected all or none",
        ),
        ([{"text": "lazy", "label": 1}, {"image": "a.png", "label": 1}], r'line 2: got "image", and it is not known'),
        ([{"words": "lazy"}], r"line 1: got keys \['words'\]; expected"),
    ],
)
def test_data_that_does_not_fit(tmp_path, documents, message):
    with pytest.raises(CalibrationError, match=message):
        run(exact(tmp_path), write(tmp_path / "data.jsonl", documents))


def test_text_for_an_image_model(tmp_path):
    data = write(tmp_path / "data.jsonl", [{"text": "lazy", "label": 1}])
    with pytest.raises(CalibrationError, match=r'line 1: got "text", and the checkpoint has no tokenizer'):
        run(write_image_classifier(tmp_path), data)


def test_npz_labels_that_are_too_few(tmp_path):
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 16), np.float32), label=np.zeros(3, int))
    with pytest.raises(CalibrationError, match=r"label has shape \[3\]; expected one label for each of 4 examples"):
        run(write_vector_model(tmp_path), tmp_path / "data.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_quality_drop": -0.1}, "max_quality_drop is -0.1; expected a share, 0 to 1"),
        ({"max_quality_drop": float("nan")}, "max_quality_drop is nan; expected a share, 0 to 1"),
    ],
)
def test_wrong_settings(tmp_path, data, options, message):
    with pytest.raises(ConfigurationError, match=message):
        run(exact(tmp_path), data, **options)


def test_a_model_that_is_fixed_to_a_batch(tmp_path):
    folder = write_vector_model(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    for spec in manifest["inputs"] + manifest["outputs"]:
        spec["shape"][0] = 4
    change_manifest(folder, inputs=manifest["inputs"], outputs=manifest["outputs"], budget_input=None)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(10, 16)).astype(np.float32), label=[0] * 10)
    report = run(folder, tmp_path / "data.npz")
    assert (report.examples, [case.batch for case in report.speed]) == (8, [4])
    assert "The last 2 examples were left out: the model is fixed to a number of them at once." in report.notes


def test_a_model_without_a_row_for_each_example(tmp_path, data):
    folder = exact(tmp_path)
    outputs = [{"name": "logits", "dtype": "float32", "shape": [3]}]
    change_manifest(folder, outputs=outputs)
    with pytest.raises(CalibrationError, match=r"outputs \(logits \[3\]\) have no row for each example"):
        run(folder, data)


def test_examples_are_not_held(tmp_path, data, monkeypatch):
    """Sums have a bound: of 120 examples in at most 8 groups the figures are those of all."""
    whole = run(capped(tmp_path), data)
    monkeypatch.setattr(api.run_both.__globals__["Groups"], "__init__", _small(api.run_both.__globals__["Groups"]))
    grouped = run(tmp_path / "capped", data)
    assert grouped.metrics[0].sparse == whole.metrics[0].sparse
    assert grouped.metrics[0].interval != whole.metrics[0].interval


def _small(groups):
    original = groups.__init__
    return lambda self, most=8: original(self, most)
