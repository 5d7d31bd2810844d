"""An artifact judged against another model than its own dense graph."""

import pytest

import lazyneuron
from lazyneuron.engine.errors import CheckpointError, ConfigurationError
from lazyneuron.exporters.evaluation.api import evaluate
from tests.exporters.evaluation.planted import capped, exact, labelled_texts, set_threshold, write_lines
from tests.support.artifacts import write_vector_model
from tests.support.checkpoints import opt, save


def run(folder, data, against):
    return evaluate(folder, data, against=against, threads=1, seconds=0, memory=False)


def test_against_another_artifact(tmp_path):
    """Both lose alike against its dense graph; against one that skips everything in its own words, too."""
    folder = exact(tmp_path)
    data = labelled_texts(tmp_path / "data.jsonl", folder)
    report = run(capped(tmp_path), data, folder)
    assert report.against == str(folder)
    assert report.metrics[0].dense == 1
    assert report.metrics[0].sparse < 1
    assert report.notes == ()  # no word of caps that were taken away: nothing was
    wrong = set_threshold(exact(tmp_path / "wrong"), 1e6)
    assert run(wrong, data, folder.parent).metrics[0].sparse < 1


def test_against_the_checkpoint_that_was_tuned(tmp_path):
    """A tuned model's answers are compared with the original's, whatever its own dense graph says."""
    opt(tmp_path / "original")
    save(tmp_path / "tuned", opt(tmp_path / "tuned"), seed=1)
    data = write_lines(tmp_path / "data.jsonl", [{"text": "the lazy neurons sleep"}, {"text": "few of them work"}])
    lazyneuron.export(tmp_path / "tuned", tmp_path / "model", calibration=data, mode="exact")
    own, other = (run(tmp_path / "model", data, against) for against in (None, tmp_path / "original"))
    assert own.metrics[0].sparse == other.metrics[0].sparse
    assert own.metrics[0].dense == pytest.approx(own.metrics[0].sparse, rel=1e-4)
    assert abs(other.metrics[0].dense - other.metrics[0].sparse) > 1e-3


def test_one_that_does_not_fit(tmp_path):
    data = write_lines(tmp_path / "data.jsonl", [{"text": "lazy"}])
    with pytest.raises(ConfigurationError, match=r"its inputs are x float32 \[\?, 16\]; expected exact's input_ids"):
        run(exact(tmp_path), data, write_vector_model(tmp_path))
    with pytest.raises(CheckpointError, match="no such file or folder"):
        run(tmp_path / "exact", data, tmp_path / "nothing")
