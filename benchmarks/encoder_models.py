"""Makes what `encoder.py` measures: the planted checkpoints, the peers' files and our artifacts.

FOLDER/checkpoint, dense.onnx, int8.onnx, int8-per-channel.onnx, ctranslate2/, exact/, certified/, certified-int8/
FOLDER/predictable.onnx, predictor-int8/    from a second checkpoint, see `planted_t5.PREDICTABLE_FALL`
FOLDER/float16.onnx                         for `gpu/run.py`
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from encoder_engines import token_ids
from linear_predictors import add_predictors
from onnxruntime.quantization import QuantType, quantize_dynamic
from planted_t5 import FALL, PREDICTABLE_FALL, plant

import lazyneuron
from lazyneuron.engine.artifact import Manifest
from lazyneuron.exporters.quantization import quantize
from lazyneuron.exporters.quiet import quiet
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.sources import read_checkpoint

__all__ = ["Made", "make", "make_for_gpu"]

_CALIBRATION = (24, 128)  # examples, tokens


@dataclass(frozen=True)
class Made:
    """What the exports measured.

    Attributes
    ----------
    certified
        The certified export's manifest.
    predictor_candidates
        Of the predictor, as a multiple of the active neurons: the mean over blocks.
    predictor_recall
        The share of the active neurons that it kept: the mean over blocks.
    """

    certified: Manifest
    predictor_candidates: float
    predictor_recall: float


def make(folder: Path, *, layers: int, peers: Path, say: Callable[[str], None]) -> Made:
    """Fill the folder; `peers` is the Python of the peers' environment, and may be absent."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = token_ids(*_CALIBRATION)
    np.savez(folder / "calibration.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    say("planting")
    with quiet():
        plant(folder / "checkpoint", layers=layers, fall=FALL)
        plant(folder / "predictable", layers=layers, fall=PREDICTABLE_FALL, seed=1)
    say("the dense graph and ONNX Runtime's int8 ones")
    for checkpoint, name in (("checkpoint", "dense"), ("predictable", "predictable")):
        save(read_checkpoint(str(folder / checkpoint)).model, folder / f"{name}.onnx")
    _quantize_all(folder / "dense.onnx", folder / "int8.onnx", per_channel=False)
    _quantize_all(folder / "dense.onnx", folder / "int8-per-channel.onnx", per_channel=True)
    if peers.exists():
        say("CTranslate2's model")
        script = Path(__file__).with_name("encoder_ctranslate2.py")
        subprocess.run([peers, script, folder / "checkpoint", folder / "ctranslate2"], check=True)
    manifests = {}
    for mode, kind, name in (
        ("exact", "none", "exact"),
        ("certified", "none", "certified"),
        ("certified", "int8", "certified-int8"),
    ):
        say(f"exporting {name}")
        manifests[name] = _export(folder, "checkpoint", name, mode=mode, quantize=kind)
    say("the predictors")
    candidates, recall = _predictor(folder, ids)
    return Made(manifests["certified"], candidates, recall)


def make_for_gpu(folder: Path, *, layers: int, say: Callable[[str], None]) -> Manifest:
    """Fill the folder with what is measured on a GPU; return the certified export's manifest."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    folder.mkdir(parents=True, exist_ok=True)
    ids = token_ids(*_CALIBRATION)
    np.savez(folder / "calibration.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    say("planting")
    with quiet():
        plant(folder / "checkpoint", layers=layers, fall=FALL)
    say("the dense graph, and ONNX Runtime's float16 one")
    save(read_checkpoint(str(folder / "checkpoint")).model, folder / "dense.onnx")
    with quiet():
        halved = convert_float_to_float16(onnx.load(folder / "dense.onnx"), keep_io_types=True)
        onnx.save(halved, folder / "float16.onnx")
    say("exporting exact and certified")
    _export(folder, "checkpoint", "exact", mode="exact", quantize="none")
    return _export(folder, "checkpoint", "certified", mode="certified", quantize="none")


def _export(folder: Path, checkpoint: str, name: str, **options: str) -> Manifest:
    """Export, and move the version's folder to a plain name."""
    with quiet():
        report = lazyneuron.export(
            folder / checkpoint, folder / "exported" / name, calibration=folder / "calibration.npz", **options
        )
    report.path.rename(folder / name)
    return report.manifest


def _quantize_all(dense: Path, output: Path, *, per_channel: bool) -> None:
    with quiet():
        quantize_dynamic(
            dense,
            output,
            op_types_to_quantize=["MatMul"],
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )


def _predictor(folder: Path, ids: np.ndarray) -> tuple[float, float]:
    """Give each certified block a linear predictor of rank 64 and int8 weights, and quantise the rest."""
    _export(folder, "predictable", "predictable-certified", mode="certified")
    source = folder / "predictable-certified" / "model.onnx"
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    model = ir.load(source)
    measured = add_predictors(model, source, feed)
    output = folder / "predictor-int8"
    output.mkdir()
    save(quantize(model, output).model, output / "model.onnx")
    return measured
