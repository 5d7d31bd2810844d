"""Count the instructions that the operators execute, and compare with the record.

So a regression shows on a noisy machine, too. valgrind's callgrind runs ONNX Runtime on fixed data, one thread, and
counts only inside the operators. It knows no AVX-512, so the instruction sets are scalar, SSE2 and AVX2. Counts depend
on the compiler, whose version the record names: where it differs the counts are shown and nothing is judged.

    make instructions            # or python benchmarks/instructions.py; exit status 1 if a count is off
    make instructions-update     # or python benchmarks/instructions.py --update
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from onnx import helper
from sparse_down import down_model, hidden

from lazyneuron.engine import block_graphs
from lazyneuron.engine.documents import write_text
from lazyneuron.engine.planted import plant
from lazyneuron.engine.session import operator_library

RECORD = Path(__file__).with_suffix(".json")
INSTRUCTION_SETS = ("scalar", "sse2", "avx2")
TOLERANCE = 0.003
"""What the address of a buffer and the last bit of the data (another BLAS) may change."""
ROWS, D_MODEL, D_FF = 8, 256, 1024
DENSITY, FALL = 0.03, 28 / 256  # see sparse_mlp and planted
OPERATORS = "lazyneuron::sparse_*(lazyneuron::KernelSet const&*"
"""The functions under ONNX Runtime's layer, in callgrind's patterns."""
# Run under valgrind, which makes importing and opening slow: that is done once, and a fork runs each case, since a
# process's dump is its own. Opening a session calls none of the functions counted.
DRIVER = """
import os, sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.register_custom_ops_library(sys.argv[1])
cases = [(onnxruntime.InferenceSession(name + ".onnx", options), numpy.load(name + ".npy")) for name in sys.argv[2:]]
for session, data in cases:
    child = os.fork()
    if child == 0:
        session.run(None, {session.get_inputs()[0].name: data})
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("a case failed")
    print(child, flush=True)
"""

Array = np.ndarray
Counts = dict[str, int]


def cases() -> dict[str, tuple[bytes, Array]]:
    """Return each case's one-block model and its input."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((D_FF, D_MODEL)) / np.sqrt(D_FF)).astype(np.float32)
    node = helper.make_node("SparseDown", ["pre", "down"], ["y", "active"], domain="lazyneuron")
    (block,) = plant(np.random.default_rng(1), D_MODEL, D_FF, [DENSITY], rows=ROWS, fall=FALL)
    found = {
        f"SparseDown, {rows} row(s), {density:.0%}": (
            down_model(node, weights).SerializeToString(),
            hidden(rows, density, rng, D_FF),
        )
        for rows, density in ((1, 0.03), (ROWS, 0.03), (ROWS, 0.3), (ROWS, 1.0))
    }
    for rows in (1, ROWS):
        for kind in ("float32", "int8"):
            name = f"SparseMLP, {{}}, {kind}, {rows} row(s)"
            found[name.format("certified")] = block_graphs.certified(block, kind), block.rows[:rows]
            found[name.format("predictor")] = block_graphs.predictor(block, kind), block.rows[:rows]
    return found


def count(name: str, work: dict[str, tuple[bytes, Array]]) -> Counts:
    """Return the instructions of each case on an instruction set.

    Raises
    ------
    click.ClickException
        If valgrind fails, or does not see the operators' functions.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stems = [folder / str(i) for i in range(len(work))]
        for stem, (model, data) in zip(stems, work.values(), strict=True):
            stem.with_suffix(".onnx").write_bytes(model)
            np.save(stem, data)
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={folder / 'counted.%p'}",
            f"--toggle-collect={OPERATORS}",
            *[sys.executable, "-c", DRIVER, operator_library(), *stems],
        ]
        environment = os.environ | {"LAZYNEURON_ISA": name, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise click.ClickException(f"valgrind ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        counted = [_total(folder / f"counted.{process}") for process in done.stdout.split()]
    if len(counted) != len(work) or not all(counted):
        raise click.ClickException(f"{operator_library()}: callgrind saw no call of {OPERATORS} in some case")
    return dict(zip(work, counted, strict=True))


def _total(dump: Path) -> int:
    """Return a dump's sum."""
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def compiler() -> str:
    """Return what built the library, as its `.comment` section says."""
    found = re.search(rb"GCC: \([^)]*\) [\d.]+|clang version [\d.]+", operator_library().read_bytes())
    return found[0].decode() if found else "unknown"


def compare(before: dict[str, Counts], now: dict[str, Counts]) -> int:
    """Print both, and return how many counts are off."""
    off = 0
    for name, counts in now.items():
        click.echo(f"\n{name:40} {'recorded':>14} {'now':>14}  change")
        for case, value in counts.items():
            recorded = before.get(name, {}).get(case)
            change = value / recorded - 1 if recorded else float("nan")
            wrong = not abs(change) <= TOLERANCE  # a case that is not in the record is off, too
            off += wrong
            shown = f"{change:+.2%}" if recorded else "new"
            click.echo(f"{case:40} {recorded or '-':>14} {value:>14}  {shown}{'  <--' if wrong else ''}")
    return off


@click.command(help=__doc__.split("\n\n")[0])
@click.option("--update", is_flag=True, help="Write the record anew.")
@click.option("--isa", "names", multiple=True, type=click.Choice(INSTRUCTION_SETS), default=INSTRUCTION_SETS)
def main(names: tuple[str, ...], *, update: bool) -> None:
    if not shutil.which("valgrind"):
        raise click.ClickException("valgrind is not installed (Debian: apt-get install valgrind)")
    work = cases()
    now = {name: count(name, work) for name in names}
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {"compiler": None, "counts": {}}
    off = compare(record["counts"], now)
    if update:
        write_text(RECORD, json.dumps({"compiler": compiler(), "counts": record["counts"] | now}, indent=2) + "\n")
    elif record["compiler"] != compiler():
        click.echo(f"\nnot judged: the record is of {record['compiler']}, this library of {compiler()}")
    elif off:
        raise click.ClickException(
            f"{off} counts are off by more than {TOLERANCE:.1%}; if that is meant: make instructions-update"
        )


if __name__ == "__main__":
    main()
