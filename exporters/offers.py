"""An alternative for one block: what it does, what it is predicted to cost, what it was measured to lose."""

from dataclasses import dataclass

from lazyneuron.exporters.plan import Choice
from lazyneuron.exporters.plan_file import Alternative

__all__ = ["Offer", "significant"]


@dataclass(frozen=True, slots=True)
class Offer:
    """An alternative for one block.

    Attributes
    ----------
    candidates
        The share of neurons whose up projection is computed.
    seconds
        Predicted, for one row.
    drop
        The quality that the whole model loses by it alone; None where that was not measured.
    """

    choice: Choice
    candidates: float
    seconds: float
    drop: float | None = None

    def alternative(self) -> Alternative:
        """Return it for the plan."""
        predictor = self.choice.predictor
        held_out = predictor.held_out if predictor else None
        return Alternative(
            mode=self.choice.mode,
            microseconds_per_row=significant(1e6 * self.seconds),
            candidates=self.candidates,
            rank=predictor.rank if predictor else None,
            recall=held_out.recall if held_out else None,
            target_density=self.choice.target,
            centred=self.choice.centre is not None,
            drop=None if self.drop is None else significant(self.drop),
        )


def significant(value: float) -> float:
    """Round to the four digits that a prediction is told in."""
    return float(f"{value:.4g}")
