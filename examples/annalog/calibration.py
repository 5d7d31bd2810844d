"""Write calibration data for annalog: molecules as token ids, and for the decoder its own answers to them.

python examples/annalog/calibration.py encoder encoder.jsonl
python examples/annalog/calibration.py decoder decoder.jsonl --count 100

The molecules are Debian's (`apt-get install rdkit-data`), or a few well-known ones where that is not installed.
"""

import argparse
import json
from pathlib import Path
from typing import TextIO

import torch
from checkpoints import MAX_LENGTH, decoder, encoder, model_file, vocabulary

DEBIAN = Path("/usr/share/RDKit/Contrib/FreeWilson/data/CHEMBL2321810.smi")
BATCH = 50
WELL_KNOWN = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "CN1CCCC1c1cccnc1",
    "CN(C)C(=N)N=C(N)N",
    "NC(Cc1ccccc1)C(=O)O",
    "OC(=O)c1ccccc1O",
    "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "COc1ccc2cc(ccc2c1)C(C)C(=O)O",
    "Clc1ccccc1C1=NCC(=O)Nc2ccc(Cl)cc21",
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("encoder", "decoder"))
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    with options.output.open("w", encoding="utf-8") as file, torch.inference_mode():
        count = write(options.part, file, options.count)
    print(f"{options.output}: {count} molecules")


def write(part: str, file: TextIO, count: int) -> int:
    """Write one line a molecule; return how many there are."""
    sequences = tokenize(molecules(count))
    if part == "encoder":
        for ids in sequences:
            _write_line(file, {"input_ids": ids})
        return len(sequences)
    for first in range(0, len(sequences), BATCH):
        batch = sequences[first : first + BATCH]
        ids, mask = _padded(batch)
        states = encoder()[0](ids, mask)["states"]
        for source, target, made in zip(batch, translate(states, mask), states, strict=True):
            rows = [[round(value, 5) for value in row] for row in made[: len(source)].tolist()]
            # The decoder sees a molecule up to a token and gives the next, so it never sees the last.
            _write_line(file, {"input_ids": target[:-1], "encoder_states": rows})
    return len(sequences)


def translate(states: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    """Return annalog's own answers, taking the likeliest token each time: what the decoder sees in use."""
    ids = vocabulary()
    decode = decoder()[0]
    made = torch.full((len(states), 1), ids["<sos>"])
    answers: dict[int, list[int]] = {}
    running = torch.arange(len(states))
    while len(running):
        logits = decode(made, torch.ones_like(made), states[running], mask[running])["logits"]
        made = torch.cat([made, logits[:, -1:].argmax(-1)], dim=1)
        ended = (made[:, -1] == ids["<eos>"]) | torch.tensor(made.shape[1] == MAX_LENGTH)
        answers |= {int(i): row.tolist() for i, row in zip(running[ended], made[ended], strict=True)}
        # What has ended leaves the batch, so that one long answer does not make all others as dear.
        made, running = made[~ended], running[~ended]
    return [answers[i] for i in range(len(states))]


def _padded(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(sequence) for sequence in sequences)
    pad = vocabulary()["<pad>"]
    ids = torch.tensor([sequence + [pad] * (longest - len(sequence)) for sequence in sequences])
    return ids, (ids != pad).long()


def _write_line(file: TextIO, inputs: dict[str, object]) -> None:
    file.write(json.dumps({"inputs": inputs}) + "\n")


def molecules(count: int) -> list[str]:
    """Return SMILES, the same ones every time."""
    if not DEBIAN.is_file():
        return list(WELL_KNOWN[:count])
    lines = DEBIAN.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("SMILES")][:count]


def tokenize(smiles: list[str]) -> list[list[int]]:
    """Return token ids with annalog's start and end marks; molecules that are too long are left out."""
    split = model_file("vocabulary").SMILESTokenizer().tokenize
    ids = vocabulary()
    sequences = [[ids["<sos>"], *(ids.get(t, ids["<unk>"]) for t in split(s)), ids["<eos>"]] for s in smiles]
    return [sequence for sequence in sequences if len(sequence) <= MAX_LENGTH]


if __name__ == "__main__":
    main()
