"""A plan as data: `plan.json` in the artifact, and what `export --plan` takes back."""

from collections.abc import Mapping
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


class PlannedBlock(_Part):
    """What is done to one block. Only `name`, `mode` and `top_k` are read from a plan that is given back."""

    name: str
    mode: BlockMode
    top_k: Annotated[int, Field(ge=0)] | None = None
    """The most neurons that a row may use, 0: no cap; None in a plan that is given back: the model's own."""
    density: float | None = None
    reason: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    """What was weighed, the chosen one included; empty where nothing was."""

    @property
    def predicted(self) -> float | None:
        """Microseconds a row of what was chosen; None where nothing was weighed."""
        return self.cost_of(self.mode)

    def cost_of(self, mode: BlockMode) -> float | None:
        """Return the predicted microseconds a row of an alternative; None if it was not weighed."""
        return next((a.microseconds_per_row for a in self.alternatives if a.mode == mode), None)


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

    def weighed_too(self, more: Mapping[str, Alternative]) -> "Plan":
        """Return the plan with one more alternative for some blocks, by their names."""
        blocks = tuple(
            block.model_copy(update={"alternatives": (*block.alternatives, more[block.name])})
            if block.name in more
            else block
            for block in self.blocks
        )
        return self.model_copy(update={"blocks": blocks})

    def carried_out(self, modes: Mapping[str, BlockMode]) -> "Plan":
        """Return the plan with what was done in the end, by the blocks' names; where predictors were admitted."""

        def done(block: PlannedBlock) -> PlannedBlock:
            mode = modes.get(block.name, block.mode)
            if mode == block.mode:
                return block
            weighed = mode == "predictor" and block.alternatives
            reason = "the cheapest of those weighed, within the allowed drop of quality" if weighed else block.reason
            return block.model_copy(update={"mode": mode, "reason": reason})

        return self.model_copy(update={"blocks": tuple(done(block) for block in self.blocks)})


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
