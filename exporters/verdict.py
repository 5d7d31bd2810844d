"""Whether skipping can help a checkpoint at all, in a sentence with its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lazyneuron.exporters.plan import BREAK_EVEN

if TYPE_CHECKING:
    from lazyneuron.exporters.reports import BlockSparsity

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether skipping what is zero can help.

    Attributes
    ----------
    helps
        Whether a block has few enough active neurons to gain.
    density
        The share of all blocks' neurons that are active.
    saved_exact, saved_certified
        The share of the blocks' operations that need not be done, at most, in these modes.
    sentence
        All of this in words.
    """

    helps: bool
    density: float
    saved_exact: float
    saved_certified: float
    sentence: str

    def document(self) -> dict[str, bool | float | str]:
        """Return it for JSON."""
        return {
            "helps": self.helps,
            "density": self.density,
            "saved_exact": self.saved_exact,
            "saved_certified": self.saved_certified,
            "sentence": self.sentence,
        }


def judge(blocks: Sequence["BlockSparsity"]) -> Verdict:
    """Judge by each block's mean density."""
    if not blocks:
        nothing = "No MLP block was found: an activation between two projections with stored matrices."
        return Verdict(helps=False, density=0.0, saved_exact=0.0, saved_certified=0.0, sentence=nothing)
    density = sum(b.density.mean * b.d_ff for b in blocks) / sum(b.d_ff for b in blocks)
    total = sum(b.d_ff * (2 * b.d_model * (1 + b.gated) + 2 * b.d_out) for b in blocks)
    down = sum((1 - b.density.mean) * b.d_ff * 2 * b.d_out for b in blocks)
    gate = sum((1 - b.density.mean) * b.d_ff * 2 * b.d_model for b in blocks if b.gating)
    screen = sum((1 - _left(b)) * b.d_ff * 2 * b.d_model for b in blocks if b.screenable)
    exact, certified = (down + gate) / total, (down + gate + screen) / total
    gaining = [b for b in blocks if b.density.mean <= BREAK_EVEN]
    sentence = (
        _helps(len(gaining), len(blocks), density, exact, certified) if gaining else _cannot(blocks, density, exact)
    )
    return Verdict(bool(gaining), density, exact, certified, sentence)


def _left(block: "BlockSparsity") -> float:
    """Return the share of neurons that the certified screen leaves: as measured, else at best."""
    return block.density.mean if block.candidates is None else block.candidates


def _helps(gaining: int, blocks: int, density: float, exact: float, certified: float) -> str:
    where = "" if gaining == blocks else f" in {gaining} of {blocks} blocks"
    more = f", and in mode certified at most {certified:.1%}" if certified > exact else ""
    return (
        f"Skipping can help{where}: {density:.1%} of the neurons are active. In mode exact at most {exact:.1%} of the "
        f"MLP blocks' operations need not be done{more}; outputs stay the same."
    )


def _cannot(blocks: Sequence["BlockSparsity"], density: float, exact: float) -> str:
    smooth = sorted({b.activation for b in blocks if b.density.mean > 0.95})
    why = f" ({' and '.join(smooth)} {'has' if len(smooth) == 1 else 'have'} hardly a zero)" if smooth else ""
    return (
        f"Exact skipping cannot help this checkpoint: {density:.1%} of the neurons are active{why}, at most "
        f"{exact:.1%} of the MLP blocks' operations are for zeros, and a block gains only below a density of "
        f"{BREAK_EVEN:.0%}. "
        "export --top-k K keeps the K largest of a row, --density SHARE those above a threshold; outputs then change, "
        "and the report says by how much."
    )
