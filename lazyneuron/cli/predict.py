"""`lazyneuron predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lazyneuron.cli.connection import connection_options, credentials_from

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
@click.option(
    "--file",
    metavar="FILE|-",
    help="Many requests: JSON Lines as for calibration, or .npz; - is standard input.",
)
@click.option(
    "--output",
    default="-",
    metavar="FILE|-",
    help="With --file: where the answers go, as JSON Lines; - is standard output.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="With --file: requests under way at the same time.",
)
@click.option("--resume", is_flag=True, help="With --file and --output FILE: go on from where an earlier run stopped.")
@click.option("--model-version", type=click.IntRange(min=1), help="The model's version.  [default: the server's]")
@click.option(
    "--budget",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="The share of the exported k that may be used.  [default: 1]",
)
@click.option("--quality", help="A class of quality that the server's configuration names, in a budget's place.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), help="Seconds until an answer is of no use.")
@click.option("--wait", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait for the server to be ready.")
@click.option("--no-outputs", is_flag=True, help="Leave the outputs' arrays out of the answers.")
@click.option("--address", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT", help="The server.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="The most classes, words or objects to tell.",
)
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    name: str,
    text: str | None,
    image: Path | None,
    inputs: tuple[str, ...],
    file: str | None,
    output: str,
    concurrency: int,
    model_version: int | None,
    budget: float,
    timeout: float | None,
    wait: float | None,
    address: str,
    top: int,
    quality: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    token_file: Path | None,
    *,
    tls: bool,
    resume: bool,
    no_outputs: bool,
    as_json: bool,
) -> None:
    """Send a request for the model NAME to a running server, or one for each line of a file.

    \b
    lazyneuron predict NAME --text "…"
    lazyneuron predict NAME --file data.jsonl --output answers.jsonl
    """  # noqa: D301  click's mark for lines that stay as they are
    if (text is not None) + (image is not None) + bool(inputs) + (file is not None) != 1:
        raise click.UsageError("give one of --text, --image, --input and --file")
    if resume and (file in {None, "-"} or output == "-"):
        raise click.UsageError("--resume needs --file FILE and --output FILE, since neither stream can be gone back in")
    import json

    from lazyneuron.client import Client

    arrays = dict(_read(item) for item in inputs)
    credentials = credentials_from(tls=tls, ca=ca, cert=cert, key=key, token_file=token_file)
    with Client(address, credentials=credentials) as client:
        if wait is not None:
            client.wait_until_ready(wait, name)
        if file is not None:
            from lazyneuron.cli.predict_file import Job, predict_file

            job = Job(
                name=name,
                file=file,
                output=output,
                concurrency=concurrency,
                version=model_version,
                budget=budget,
                timeout=timeout,
                top=top,
                quality=quality,
                outputs=not no_outputs,
                resume=resume,
            )
            if failed := predict_file(client, job, _document):
                raise click.ClickException(f"{failed} of the lines failed; their answers say why")
            return
        one = text if text is not None else image or arrays
        answer = client.predict(
            name, one, model_version, budget, timeout, top=top, outputs=not no_outputs, quality=quality
        )
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
    if answer.answers and answer.outputs:
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
