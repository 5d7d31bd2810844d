"""Which architectures' blocks are found, and how far their exact and certified graphs are from PyTorch.

Small configurations with random weights; every block is replaced, whatever its density. A minute or two for ten:

    python -m benchmarks.architectures [NAME …]
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from lazyneuron.engine.errors import LazyneuronError
from tests.support.architectures import ARCHITECTURES, hold, open_architecture


def row(name: str, folder: Path) -> str:
    try:
        opened = open_architecture(name, folder / "checkpoint")
    except LazyneuronError as error:
        return f"| {name} | refused: {str(error).split(': ', 1)[-1][:160]} | | | |"
    kinds = Counter(f"{'gated ' if b.gate else ''}{b.activation}" for b in opened.blocks.values())
    blocks = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
    held = [hold(opened, mode, folder) for mode in ("exact", "certified")] if opened.blocks else []
    errors = " | ".join(f"{h.error:.0e}" for h in held) or " | "
    left = "; ".join(f"{where}: {reason}" for where, reason in opened.skipped)
    return f"| {name} | {opened.dense.task} | {blocks} | {errors} | {left} |"


def main() -> None:
    names = sys.argv[1:] or list(ARCHITECTURES)
    print("| architecture | task | blocks | exact | certified | not taken |")
    print("|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
