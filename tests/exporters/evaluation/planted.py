"""Tiny artifacts with known answers, and data labelled by what the exact one says."""

import json

import numpy as np
import onnx

from lazyneuron.engine.artifact import MANIFEST_FILE, MODEL_FILE, digest
from lazyneuron.engine.model import Model
from tests.support.artifacts import VOCABULARY, Size, write_text_classifier


def size(**changes) -> Size:
    """Half of the neurons fire, and what they give decides the class."""
    return Size(density=0.5, **changes)


def texts(count, seed=0):
    """Texts of 3 to 12 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(VOCABULARY[2:], rng.integers(3, 13))) for _ in range(count)]


def write_lines(path, documents):
    path.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
    return path


def labelled_texts(path, folder, count=120):
    """Write texts with the class that the artifact in `folder` gives them."""
    model = Model.load(folder, threads=1)
    documents = [{"text": text, "label": int(model.predict(text).outputs["logits"].argmax())} for text in texts(count)]
    assert len({document["label"] for document in documents}) > 1
    return write_lines(path, documents)


def set_threshold(folder, threshold):
    """Make the operators skip neurons up to a value: the manifest knows nothing of it."""
    model = onnx.load(folder / MODEL_FILE)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "threshold":
                attribute.f = threshold
    onnx.save(model, folder / MODEL_FILE)
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    change_manifest(folder, files=files | {MODEL_FILE: digest(folder / MODEL_FILE).model_dump()})
    return folder


def change_manifest(folder, **fields):
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def exact(folder):
    return write_text_classifier(folder, "exact", size=size())


def capped(folder, top_k=2):
    return write_text_classifier(folder, "capped", size=size(top_k=top_k))
