"""A plan as data: `plan.json` in the artifact, and what `export --plan` takes back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lazyneuron.engine.documents import read_document
from lazyneuron.engine.errors import ConfigurationError

__all__ = ["PLAN_FILE", "PLAN_FORMAT", "Alternative", "BlockMode", "Plan", "PlannedBlock", "WholeModel", "read_plan"]

PLAN_FILE = "plan.json"
PLAN_FORMAT = 1
BlockMode = Literal["dense", "exact", "certified", "predictor", "gate"]
"""What is done to a block; `dense` leaves it as it is."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_Density = Annotated[float, Field(gt=0.0, lt=1.0)]


class Alternative(_Part):
    """One thing that could be done to a block, and its predicted cost."""

    mode: BlockMode
    microseconds_per_row: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    candidates: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """The share of neurons whose up projection it computes, measured on held-out data."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """A predictor's."""
    recall: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """The share of active neurons that a predictor keeps, measured on held-out data."""
    target_density: _Density | None = None
    """The share of neurons that a threshold keeps; None: there is none."""
    centred: bool = False
    """Whether what the threshold leaves out counts with its mean."""
    drop: Annotated[float, Field(ge=0.0)] | None = None
    """The quality that the whole model loses if only this is changed, on calibration examples; None: not measured."""

    @property
    def lossy(self) -> bool:
        """Whether it may change the model's outputs."""
        return self.rank is not None or self.target_density is not None

    @property
    def words(self) -> str:
        """What it is, in words."""
        if self.rank is not None and self.recall is not None:
            share = f"held-out recall {100 * self.recall:.2f} %, {100 * self.candidates:.2f} % computed"
            return f"a predictor of rank {self.rank}, {share}"
        if self.target_density is None:
            return self.mode
        mean = ", the mean of the others recovered" if self.centred else ""
        return f"{self.mode}, {100 * self.target_density:.2f} % kept{mean}"


class PlannedBlock(_Part):
    """What is done to one block.

    Of a plan that is given back `name`, `mode`, `top_k`, `target_density`, `threshold` and `centred` are read.
    """

    name: str
    mode: BlockMode
    top_k: Annotated[int, Field(ge=0)] | None = None
    """The most neurons that a row may use, 0: no cap; None in a plan that is given back: the model's own."""
    target_density: _Density | None = None
    """The share of neurons that a threshold keeps, which calibration data chooses; None: none is chosen."""
    threshold: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """The threshold; in a plan that is given back it counts where there is no `target_density`."""
    centred: bool | None = None
    """Whether what is left out may count with its mean; None in a plan that is given back: with `target_density`."""
    density: float | None = None
    reason: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    """What was weighed, the chosen one included; empty where nothing was."""

    @property
    def predicted(self) -> float | None:
        """Microseconds a row of what was chosen; None where nothing was weighed."""
        return None if self.chosen is None else self.chosen.microseconds_per_row

    @property
    def chosen(self) -> Alternative | None:
        """What was chosen of the alternatives; None where nothing was weighed."""
        own = (self.mode, self.target_density, bool(self.centred))
        same = (a for a in self.alternatives if (a.mode, a.target_density, a.centred) == own)
        return next(same, next((a for a in self.alternatives if a.mode == self.mode), None))

    @property
    def lossy(self) -> tuple[Alternative, ...]:
        """The alternatives that lose something."""
        return tuple(other for other in self.alternatives if other.lossy)

    @property
    def cuts(self) -> bool:
        """Whether it has a threshold, or may take the mean of what is left out."""
        return self.target_density is not None or bool(self.threshold) or self.centred is True

    def cost_of(self, mode: BlockMode) -> float | None:
        """Return the predicted microseconds a row of a mode, without a threshold if possible; None: not weighed."""
        found = sorted((a for a in self.alternatives if a.mode == mode), key=lambda a: a.target_density is not None)
        return found[0].microseconds_per_row if found else None


class WholeModel(_Part):
    """The model's time for one call, where the costs are the exporting machine's own."""

    rows: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    dense_milliseconds: Annotated[float, Field(gt=0.0)]
    """Of the dense model, measured on held-out examples."""
    predicted_milliseconds: Annotated[float, Field(gt=0.0)]
    """Of the planned one: less what its blocks are predicted to save."""


class Plan(_Part):
    """What is done to each block of a model, in the graph's order."""

    format_version: Literal[1] = 1
    blocks: Annotated[tuple[PlannedBlock, ...], Field(min_length=1)]
    rows: Annotated[int, Field(ge=1)] | None = None
    """Rows in a call, for which the costs were predicted; None where nothing was weighed."""
    costs: str | None = None
    """Where the costs are from, in a sentence."""
    measured_here: bool | None = None
    """Whether the costs were measured on the exporting machine; None where nothing was weighed."""

    whole_model: WholeModel | None = None

    def total(self, mode: BlockMode | None = None) -> float | None:
        """Return the predicted microseconds a row of all blocks, as chosen or all in one mode; None if not weighed."""
        costs = [block.predicted if mode is None else block.cost_of(mode) for block in self.blocks]
        known = [cost for cost in costs if cost is not None]
        return sum(known) if len(known) == len(costs) else None

    def weighed_too(self, more: Mapping[str, Sequence[Alternative]]) -> "Plan":
        """Return the plan with more alternatives for some blocks, by their names."""
        blocks = tuple(
            block.model_copy(update={"alternatives": (*block.alternatives, *more.get(block.name, ()))})
            for block in self.blocks
        )
        return self.model_copy(update={"blocks": blocks})


def read_plan(path: Path) -> Plan:
    """Read and check a plan.

    Raises
    ------
    ConfigurationError
        If the file is missing, is not JSON, does not fit the schema or has another format version.
    """
    plan = read_document(
        path, Plan, PLAN_FORMAT, ConfigurationError, what="plan", missing=f"a plan is an artifact's {PLAN_FILE}"
    )
    names = [block.name for block in plan.blocks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigurationError(f"{path}: block {twice[0]} is in it twice")
    return plan
