"""Measure a whole checkpoint: its dense graph, ONNX Runtime's dynamic int8, and our exact and certified artifacts.

All on the checkpoint's own calibration data, cut to a batch and a length, one thread unless `--threads` says otherwise.
The int8 graph has every MatMul quantised, attention and head included, and its outputs differ from the dense ones: the
column "off" says by how much of the largest output. All sessions stay loaded and are timed in turns.

    python benchmarks/checkpoint.py CHECKPOINT CALIBRATION.jsonl [--shape 8x100 ...] [--threads N]
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import click
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

import lazyneuron
from lazyneuron.engine.session import open_session
from lazyneuron.engine.timing import Timing, ratio, time_in_turns
from lazyneuron.exporters.bench.int8 import quantize
from lazyneuron.exporters.sessions import save
from lazyneuron.exporters.sources import read_checkpoint

Feed = dict[str, np.ndarray]


def graphs(checkpoint: str, calibration: Path, folder: Path) -> dict[str, Path]:
    """Return the ONNX files to compare."""
    dense, int8 = folder / "dense.onnx", folder / "int8.onnx"
    save(read_checkpoint(checkpoint).model, dense)
    quantize(dense, int8)
    ours = {
        mode: lazyneuron.export(checkpoint, folder / mode, calibration=calibration, mode=mode).path / "model.onnx"
        for mode in ("exact", "certified")
    }
    return {"dense": dense, "int8": int8, **ours}


def batch(calibration: Path, tokenizer: Path, examples: int, length: int) -> Feed:
    """Return the first texts that are long enough, cut to one length."""
    encode = Tokenizer.from_file(str(tokenizer)).encode
    texts = [json.loads(line)["text"] for line in calibration.read_text().splitlines()]
    rows = [ids[:length] for text in texts if len(ids := encode(text).ids) >= length][:examples]
    if len(rows) < examples:
        raise SystemExit(f"{calibration}: fewer than {examples} texts of {length} tokens")
    ids = np.array(rows)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def measure(sessions: dict[str, onnxruntime.InferenceSession], feed: Feed, seconds: float) -> None:
    """Time the sessions in turns and print a line each."""
    first = [output.name for output in sessions["dense"].get_outputs()][:1]
    expected = sessions["dense"].run(first, feed)[0]
    work = {name: partial(session.run, first, feed) for name, session in sessions.items()}
    times = time_in_turns(work, seconds=seconds / len(work))
    for name, session in sessions.items():
        faster = ratio(times["dense"], times[name])
        off = np.abs(session.run(first, feed)[0] - expected).max() / np.abs(expected).max()
        click.echo(
            f"  {name:10} {1e3 * Timing.of(times[name]).median:9.2f} ms  "
            f"{faster.median:5.2f} ({faster.low:.2f} to {faster.high:.2f})"
            f"  off {off:.1e}"
        )


@click.command()
@click.argument("checkpoint")
@click.argument("calibration", type=click.Path(path_type=Path, exists=True))
@click.option("--shape", "shapes", multiple=True, default=("1x16", "1x100", "8x100"), show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="For each shape.")
def main(checkpoint: str, calibration: Path, shapes: tuple[str, ...], threads: int, seconds: float) -> None:
    """Print a table for each shape (examples x length)."""
    with tempfile.TemporaryDirectory() as scratch:
        files = graphs(checkpoint, calibration, Path(scratch))
        sessions = {name: open_session(path, threads=threads) for name, path in files.items()}
        tokenizer = files["exact"].with_name("tokenizer.json")
        click.echo(f"ONNX Runtime {onnxruntime.__version__}, {threads} thread(s); median, times dense (quartiles)")
        for shape in shapes:
            examples, length = map(int, shape.split("x"))
            click.echo(f"{shape}:")
            measure(sessions, batch(calibration, tokenizer, examples, length), seconds)


if __name__ == "__main__":
    main()
