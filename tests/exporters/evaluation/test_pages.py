"""Pages for a person: an evaluation's, and an export's that was judged."""

import re

import pytest

import lazyneuron
from lazyneuron.engine.artifact import read_manifest, verify_files
from lazyneuron.engine.errors import CalibrationError
from lazyneuron.exporters.evaluation.api import evaluate
from lazyneuron.exporters.page import render_evaluation
from tests.exporters.evaluation.planted import capped, exact, labelled_texts, write_lines
from tests.support.checkpoints import opt


def words(page):
    return " ".join(re.sub("<[^>]+>", " ", page).split())


def test_an_evaluation_as_a_page(tmp_path):
    data = labelled_texts(tmp_path / "data.jsonl", exact(tmp_path))
    report = evaluate(capped(tmp_path), data, threads=1, seconds=0, corruptions=True)
    page = render_evaluation(report)
    text = words(page)
    assert report.verdict.sentence.replace(">", "&gt;") in text
    accuracy = report.metrics[0]
    assert f"accuracy 100.00% {accuracy.sparse:.2%} {100 * accuracy.difference:+.2f}" in text
    assert "typos" in text
    assert report.memory.dense_bytes > 0 < report.memory.sparse_bytes
    assert f"{report.memory.sparse_bytes / 1e6:,.1f} MB" in text
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", page)  # self-contained


def test_an_export_that_is_judged(tmp_path):
    opt(tmp_path / "checkpoint")
    calibration = write_lines(tmp_path / "calibration.jsonl", [{"text": "lazy neurons sleep"}])
    data = write_lines(tmp_path / "data.jsonl", [{"text": "the lazy neurons <b>sleep</b>"}, {"text": "few work"}])
    made = lazyneuron.export(tmp_path / "checkpoint", tmp_path / "model", calibration=calibration, evaluate=data)
    assert made.path == tmp_path / "model" / "1"
    assert made.evaluation.path == made.path
    assert made.document()["evaluation"]["verdict"]["sentence"] == made.evaluation.verdict.sentence
    assert "Evaluation" in words(made.report.read_text())
    assert f"{made.evaluation.metrics[0].dense:.4g}" in words(made.report.read_text())
    verify_files(made.path, read_manifest(made.path))


def test_data_that_is_not_there_is_told_before_the_work(tmp_path):
    opt(tmp_path / "checkpoint")
    with pytest.raises(CalibrationError, match=r"none\.jsonl: no such file"):
        lazyneuron.export(tmp_path / "checkpoint", tmp_path / "model", evaluate=tmp_path / "none.jsonl")
    assert not (tmp_path / "model").exists()
