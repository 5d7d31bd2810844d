"""The probe that an artifact carries: random input, so that nobody's calibration data travels with a model."""

from pathlib import Path

import numpy as np

from lazyneuron.engine.artifact import MODEL_FILE, Manifest, digest
from lazyneuron.engine.errors import LazyneuronError
from lazyneuron.engine.model import Model
from lazyneuron.engine.probe import write_probe
from lazyneuron.engine.session import open_session
from lazyneuron.exporters.batches import batch_size, batches
from lazyneuron.exporters.examples import random_example
from lazyneuron.exporters.sources import DenseModel

__all__ = ["with_probe"]

_EXAMPLES = 2  # of unlike lengths where the model can tell padding, so that this is looked at, too


def with_probe(manifest: Manifest, folder: Path, dense: DenseModel) -> Manifest:
    """Write the probe's file and return the manifest with it; with a note where the model takes no random input.

    Parameters
    ----------
    folder
        Holds the graph, whole.
    """
    model = Model(manifest, open_session(folder / MODEL_FILE), None)
    size = batch_size(dense.inputs, _EXAMPLES)
    rng = np.random.default_rng(0)
    lengths: dict[str, int] = {}
    examples = [random_example(dense, {} if manifest.paddable else lengths, rng) for _ in range(size)]
    feed = next(iter(batches(examples, dense.inputs, size)))
    try:
        probe = write_probe(folder, model, feed)
    except LazyneuronError as error:
        note = f"There is no probe to check the model by where it is served: it does not run on random input ({error})."
        return manifest.model_copy(update={"notes": (*manifest.notes, note)})
    files = {**manifest.files, probe.file: digest(folder / probe.file)}
    return manifest.model_copy(update={"files": files, "probe": probe})
