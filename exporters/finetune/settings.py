"""What a person may choose about fine-tuning."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.settings import TASKS, refuse_unknown

__all__ = ["FinetuneSettings"]

_DEFAULT_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSettings:
    """What a person may choose about fine-tuning.

    Attributes
    ----------
    data
        Files to train on, mixed: text, JSON Lines as for calibration, or `.npz`.
    teacher
        The dense model whose answers are learned, a checkpoint of the same kind; None: the checkpoint as it is. With it
        a tuned checkpoint is tuned further.
    validation
        A file to measure on; None: a share of the data is held out.
    held_out
        That share; of no more than `MOST_HELD_OUT` examples.
    top_k
        The most neurons that a row uses in a block, in training and after; None: no cap.
    relufy
        Whether GELU and SiLU become ReLU.
    sparsity_penalty
        What a block's spread of values, `‖v‖₁ / (‖v‖₂ √d_ff)`, weighs in the loss; averaged over rows and blocks.
    lm_weight
        What the task's own loss (the next token's) weighs; the rest, 1 − `lm_weight`, is the distance from the dense
        model.
    steps, minutes
        When to end: after so many steps, or so much time in training; the first to come, where both are given.
    batch
        Examples (packed sequences, for language models) in a step.
    length
        Tokens in an example; None: 128, or the most that the model takes where that is less.
    learning_rate
        AdamW's, after warming up; it falls to 0 by a cosine.
    task
        None: what the checkpoint says.
    validate_every
        Steps between two measurements on held-out data.
    save_every
        Steps between two states from which training can go on.
    seed
        Of the examples' order, of what is held out and of masked words.
    resume
        Whether to go on from an interrupted run's state.
    """

    data: tuple[Path, ...]
    teacher: str | None = None
    validation: Path | None = None
    held_out: float = 0.05
    top_k: int | None = None
    relufy: bool = False
    sparsity_penalty: float = 0.0
    lm_weight: float = 0.0
    steps: int | None = None
    minutes: float | None = None
    batch: int = 16
    length: int | None = None
    learning_rate: float = 2e-4
    task: str | None = None
    validate_every: int = 100
    save_every: int = 50
    seed: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigurationError("no data to train on; give --data FILE")
        if self.top_k is None and not self.relufy:
            raise ConfigurationError("nothing would become sparse; give --top-k K, --relufy or both")
        if self.sparsity_penalty and not self.relufy and self.top_k is None:
            raise ConfigurationError("sparsity_penalty needs --relufy or --top-k")
        for name in ("top_k", "steps", "batch", "validate_every", "save_every"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and value >= 1):
                raise ConfigurationError(f"{name} is {value!r}; expected a whole number of at least 1")
        if self.length is not None and not (type(self.length) is int and self.length >= 2):
            raise ConfigurationError(f"length is {self.length!r}; expected a whole number of at least 2")
        if not (type(self.seed) is int and 0 <= self.seed < 2**31):
            raise ConfigurationError(f"seed is {self.seed!r}; expected a whole number from 0 to {2**31 - 1}")
        self._number("minutes", self.minutes, above=True)
        self._number("learning_rate", self.learning_rate, above=True)
        self._number("sparsity_penalty", self.sparsity_penalty, above=False)
        if not 0 <= self.lm_weight <= 1:
            raise ConfigurationError(f"lm_weight is {self.lm_weight!r}; expected a share from 0 to 1")
        if not 0 < self.held_out < 1:
            raise ConfigurationError(f"held_out is {self.held_out!r}; expected a share between 0 and 1")
        if self.task is not None and self.task not in TASKS:
            raise ConfigurationError(f"task is {self.task!r}; expected one of {', '.join(TASKS)}")

    @staticmethod
    def _number(name: str, value: float | None, *, above: bool) -> None:
        if value is None:
            return
        if not (isinstance(value, int | float) and math.isfinite(value) and (value > 0 if above else value >= 0)):
            least = "above 0" if above else "of at least 0"
            raise ConfigurationError(f"{name} is {value!r}; expected a number {least}")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "FinetuneSettings":
        """Make settings of keyword options; paths may be strings, and `data` one of them.

        Raises
        ------
        ConfigurationError
            If an option is unknown or its value is wrong.
        """
        refuse_unknown(cls, options)
        data = options.get("data", ())
        values = options | {"data": tuple(map(Path, (data,) if isinstance(data, str | Path) else data))}
        if values.get("teacher") is not None:
            values["teacher"] = str(values["teacher"])
        if values.get("validation") is not None:
            values["validation"] = Path(values["validation"])
        if values.get("steps") is None and values.get("minutes") is None:
            values["steps"] = _DEFAULT_STEPS
        return cls(**values)
