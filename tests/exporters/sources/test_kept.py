"""Graphs in the cache: torch exports a checkpoint once, and a cache that cannot be used costs no more than time."""

import shutil

import numpy as np
import pytest
import torch

from lazyneuron.exporters.sessions import EXTERNAL_ABOVE
from lazyneuron.exporters.sources import hugging_face, read_checkpoint
from tests.support import checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "checkpoint"
    checkpoints.bert(folder, "ForSequenceClassification", num_labels=3, intermediate_size=4096, num_hidden_layers=1)
    return folder


@pytest.fixture(scope="module")
def kept_once(checkpoint, tmp_path_factory):
    cache = tmp_path_factory.mktemp("kept-once") / "cache"
    return read_checkpoint(str(checkpoint), None, cache), cache


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def exports(monkeypatch):
    """What torch is asked to export from now on."""
    asked = []
    export = torch.onnx.export

    def noted(*arguments, **options):
        asked.append(options["output_names"])
        return export(*arguments, **options)

    monkeypatch.setattr(torch.onnx, "export", noted)
    return asked


def weights(model):
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def same(first, second):
    assert (first.inputs, first.outputs, first.source) == (second.inputs, second.outputs, second.source)
    assert (first.task, first.labels, first.max_lengths, first.length) == (
        second.task,
        second.labels,
        second.max_lengths,
        second.length,
    )
    assert [node.op_type for node in first.model.graph] == [node.op_type for node in second.model.graph]
    one, other = weights(first.model), weights(second.model)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_torch_exports_a_checkpoint_once(checkpoint, kept_once, exports, monkeypatch):
    first, cache = kept_once
    second = read_checkpoint(str(checkpoint), None, cache)
    assert not exports
    same(first, second)
    assert sum(w.nbytes for w in weights(first.model).values()) > EXTERNAL_ABOVE  # so that files of weights are tried
    monkeypatch.setattr(hugging_face, "kept_graph", lambda make, **_: make())
    same(first, read_checkpoint(str(checkpoint), None, cache))
    assert len(exports) == 1


def test_another_task_or_other_weights_are_another_graph(checkpoint, kept_once, exports, tmp_path):
    _, cache = kept_once
    read_checkpoint(str(checkpoint), "feature-extraction", cache)
    other = tmp_path / "other"
    checkpoints.bert(other, "ForSequenceClassification", num_labels=3, num_hidden_layers=1)
    read_checkpoint(str(other), None, cache)
    assert exports == [["last_hidden_state"], ["logits"]]
    assert len(list((cache / "graphs").iterdir())) == 3


@pytest.mark.parametrize("damage", ["short weights", "no graph"])
def test_what_is_damaged_is_made_anew(checkpoint, cache, exports, damage, kept_once):
    first, whole = kept_once
    read_checkpoint(str(checkpoint), None, whole)
    place = max((whole / "graphs").iterdir(), key=lambda path: path.stat().st_mtime)
    place = shutil.copytree(place, cache / "graphs" / place.name)
    if damage == "short weights":
        file = place / "graph.onnx.data"
        file.write_bytes(file.read_bytes()[:-100])
    else:
        (place / "graph.onnx").unlink()
    again = read_checkpoint(str(checkpoint), None, cache)
    assert len(exports) == 1
    same(first, again)
    same(first, read_checkpoint(str(checkpoint), None, cache))
    assert len(exports) == 1
    assert [path.name for path in (cache / "graphs").iterdir()] == [place.name]


def test_a_cache_that_cannot_be_written_is_done_without(checkpoint, cache, exports):
    cache.write_text("a file, where a folder is wanted")
    read_checkpoint(str(checkpoint), None, cache)
    assert len(exports) == 1
    assert cache.is_file()


def test_nothing_is_kept_on_a_disk_without_room(checkpoint, cache, exports, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    read_checkpoint(str(checkpoint), None, cache)
    assert len(exports) == 1
    assert not cache.exists()
