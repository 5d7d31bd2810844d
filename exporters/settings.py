"""What a person may choose about an export."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lazyneuron.engine.errors import ConfigurationError

__all__ = ["MODES", "QUANTIZATIONS", "TASKS", "ExportSettings"]

MODES = ("auto", "exact", "certified", "predictor")
QUANTIZATIONS = ("none", "int8")
TASKS = (
    "feature-extraction",
    "text-generation",
    "text-classification",
    "token-classification",
    "fill-mask",
    "image-classification",
    "image-feature-extraction",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """What a person may choose about an export.

    Attributes
    ----------
    name
        The model's name; None: the output folder's.
    version
        None: the next free one under the output folder.
    calibration
        JSON Lines or `.npz`; None: random input.
    task
        One of `TASKS`; None: what the checkpoint says.
    mode
        `exact` skips ReLU's own zeros in the down projection; `certified` also skips the up projection of neurons
        that a sound bound shows to be zero; `auto` is `exact` in this version.
    top_k
        The most neurons a row may use in a block; None (`auto`): the model's own.
    max_quality_drop
        For modes that lose quality; has no effect on `exact`.
    quantize
        `int8`: the products with constant weights outside the sparse operators become int8, which changes outputs;
        `none`.
    batch_size
        Examples run at once in calibration.
    """

    name: str | None = None
    version: int | None = None
    calibration: Path | None = None
    task: str | None = None
    mode: str = "auto"
    top_k: int | None = None
    max_quality_drop: float = 0.0
    quantize: str = "none"
    batch_size: int = 8

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("quantize", self.quantize, QUANTIZATIONS)
        if self.task is not None:
            _one_of("task", self.task, TASKS)
        if self.mode == "predictor":
            raise ConfigurationError(f"mode {self.mode} is not in this version; use exact or certified")
        _at_least("version", self.version, 1)
        _at_least("top_k", self.top_k, 1)
        _at_least("batch_size", self.batch_size, 1)
        if not (isinstance(self.max_quality_drop, int | float) and 0.0 <= self.max_quality_drop <= 1.0):
            raise ConfigurationError(f"max_quality_drop is {self.max_quality_drop!r}; expected a share from 0 to 1")

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "ExportSettings":
        """Make settings of keyword options; `auto` stands for None, and paths may be strings.

        Raises
        ------
        ConfigurationError
            If an option is unknown or its value is wrong.
        """
        known = {f.name for f in fields(cls)}
        for option in options:
            if option not in known:
                raise ConfigurationError(f"unknown option {option!r}; expected one of {', '.join(sorted(known))}")
        values = {k: v for k, v in options.items() if not (k == "top_k" and v == "auto")}
        if values.get("calibration") is not None:
            values["calibration"] = Path(values["calibration"])
        return cls(**values)


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{what} is {value!r}; expected one of {', '.join(allowed)}")


def _at_least(what: str, value: int | None, least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise ConfigurationError(f"{what} is {value!r}; expected a whole number of at least {least}")
