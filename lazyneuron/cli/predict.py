"""`lazyneuron predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np

    from lazyneuron.client import ServedPrediction

__all__ = ["command"]

_SHOWN = 8  # values of an output on the terminal; --json has them all


@click.command("predict")
@click.argument("name")
@click.option("--text", help="The text to run, for a model with a tokenizer.")
@click.option(
    "--image", type=click.Path(path_type=Path), help="The image file to run, for a model with an image preprocessor."
)
@click.option("--input", "inputs", metavar="NAME=FILE.npy", multiple=True, help="One input's array; once for each.")
@click.option("--address", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT", help="The server.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="The most classes, words or objects to tell.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    name: str,
    text: str | None,
    image: Path | None,
    inputs: tuple[str, ...],
    address: str,
    top: int,
    *,
    as_json: bool,
) -> None:
    """Send one request for the model NAME to a running server."""
    if (text is not None) + (image is not None) + bool(inputs) != 1:
        raise click.UsageError("give one of --text, --image and --input")
    import json

    from lazyneuron.client import Client

    arrays = dict(_read(item) for item in inputs)
    with Client(address) as client:
        answer = client.predict(name, text if text is not None else image or arrays, top=top)
    click.echo(json.dumps(_document(answer)) if as_json else _table(answer))


def _read(item: str) -> "tuple[str, np.ndarray[Any, Any]]":
    """Return the name and the array of `NAME=FILE.npy`. No pickles: a file of them could run code."""
    import numpy as np

    from lazyneuron.engine.errors import InputError

    name, separator, file = item.partition("=")
    if not (name and separator and file):
        raise click.BadParameter(f"{item!r}: expected NAME=FILE.npy", param_hint="--input")
    try:
        with Path(file).open("rb") as stream:
            return name, np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(name, got=f"{file}, which is not there", expected="an .npy file") from None
    except ValueError as error:
        raise InputError(name, got=f"{file} ({error})", expected="an .npy file of numbers") from None


def _document(answer: "ServedPrediction") -> dict[str, Any]:
    from dataclasses import asdict

    from lazyneuron.cli import answers

    sparsity = answer.sparsity
    return {
        "model": answer.model_name,
        "version": answer.model_version,
        "answers": [answers.document(one) for one in answer.answers],
        "outputs": {name: array.tolist() for name, array in answer.outputs.items()},
        "sparsity": {
            "density": sparsity.density,
            "flops_dense": sparsity.flops_dense,
            "flops_executed": sparsity.flops_executed,
            "flops_saved": sparsity.flops_saved,
            "blocks": [asdict(block) | {"density": block.density} for block in sparsity.blocks],
        },
        "timing": asdict(answer.timing),
    }


def _table(answer: "ServedPrediction") -> str:
    import numpy as np

    from lazyneuron.cli import answers

    lines = [f"{answer.model_name} version {answer.model_version}"]
    for number, one in enumerate(answer.answers, 1):
        lines += [f"example {number}:"] * (len(answer.answers) > 1) + answers.lines(one)
    if answer.answers:
        lines.append("outputs:")
    for name, array in answer.outputs.items():
        values = " ".join(f"{value:.6g}" for value in np.ravel(array)[:_SHOWN].tolist())
        more = " …" if array.size > _SHOWN else ""
        lines.append(f"  {name} {list(array.shape)}: {values}{more}")
    sparsity = answer.sparsity
    saved = sparsity.flops_saved / sparsity.flops_dense if sparsity.flops_dense else 0.0
    lines.append(f"neurons active: {sparsity.density:.2%}; MLP FLOPs saved: {saved:.1%}")
    lines += [f"  {block.name}: {block.density:.2%} of {block.neurons}" for block in sparsity.blocks]
    timing = answer.timing
    lines.append(
        f"queue {timing.queue_seconds * 1000:.2f} ms, inference {timing.inference_seconds * 1000:.2f} ms, "
        f"in a batch of {timing.batch_requests}"
    )
    return "\n".join(lines)
