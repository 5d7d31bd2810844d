"""What a person may choose about an export."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lazyneuron.engine.errors import ConfigurationError

__all__ = ["MODES", "QUANTIZATIONS", "TASKS", "ExportSettings", "refuse_unknown"]

MODES = ("auto", "exact", "certified", "predictor")
QUANTIZATIONS = ("none", "int8")
TASKS = (
    "feature-extraction",
    "sentence-embedding",
    "text-generation",
    "text-classification",
    "token-classification",
    "fill-mask",
    "image-classification",
    "image-feature-extraction",
    "object-detection",
    "seq2seq",
    "audio-classification",
    "automatic-speech-recognition",
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
        that a sound bound shows to be zero; `predictor` skips the neurons that a low-rank predictor leaves out, at a
        recall; `auto` takes for each block the cheapest of the first two and of leaving it dense, by the costs that
        `lazyneuron bench --operators` measured; with a `max_quality_drop` above 0 and calibration data, predictors too.
    top_k
        The most neurons a row may use in a block; None (`auto`): the model's own.
    density
        The share of each block's neurons that a threshold on their magnitude keeps, chosen on calibration data; blocks
        with fewer active neurons stay as they are. None: no threshold, unless `auto` weighs some.
    recover_mean
        Whether neurons that a threshold or `top_k` leaves out may count with their calibrated mean instead of with
        zero, in the blocks where that brings the output nearer to the dense one's.
    max_quality_drop
        The most that blocks in mode `predictor` may cost together, as `quality.drop` measures it on held-out data:
        the worst go back to `certified` until it is kept. None: whatever the recall costs. Modes `exact` and
        `certified` cost nothing.
    quantize
        `int8`: the products with constant weights outside the sparse operators become int8, which changes outputs;
        `none`.
    plan
        A plan's file, which says what is done to each block; None: the mode says it.
    costs
        The file of costs that `auto` goes by, or `cuda:` with a GPU's name; None: what
        `lazyneuron.engine.cost_files.load_costs` finds.
    rows
        Rows (tokens) of a call, for which `auto` chooses; None: those of a calibration example on average.
    batch_size
        Examples run at once in calibration.
    predictor_recall
        The share of truly active neurons that a predictor has to keep, on data like the calibration's.
    predictor_rank
        None (`auto`): chosen for each block by cost.
    evaluate
        Data, best labelled, that neither training nor calibration has seen: the artifact is judged on it as
        `lazyneuron evaluate` does, and the report says go or no-go. None: it is not judged.
    cache
        Where graphs that torch exported are kept, and predictors as they are trained, so that an interrupted export
        goes on and a repeated one is short; None: `LAZYNEURON_CACHE`, or the user's folder of caches.
    """

    name: str | None = None
    version: int | None = None
    calibration: Path | None = None
    task: str | None = None
    mode: str = "auto"
    top_k: int | None = None
    density: float | None = None
    recover_mean: bool = True
    max_quality_drop: float | None = None
    quantize: str = "none"
    plan: Path | None = None
    costs: Path | None = None
    rows: int | None = None
    batch_size: int = 8
    predictor_recall: float = 0.99
    predictor_rank: int | None = None
    evaluate: Path | None = None
    cache: Path | None = None

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("quantize", self.quantize, QUANTIZATIONS)
        if self.task is not None:
            _one_of("task", self.task, TASKS)
        _at_least("version", self.version, 1)
        _at_least("top_k", self.top_k, 1)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("rows", self.rows, 1)
        _at_least("predictor_rank", self.predictor_rank, 1)
        drop, recall = self.max_quality_drop, self.predictor_recall
        if drop is not None and not (isinstance(drop, int | float) and 0.0 <= drop <= 1.0):
            raise ConfigurationError(f"max_quality_drop is {drop!r}; expected a share from 0 to 1")
        if not (isinstance(recall, int | float) and 0.5 <= recall < 1.0):
            raise ConfigurationError(f"predictor_recall is {recall!r}; expected a share from 0.5 to below 1")
        if self.density is not None:
            self._check_density(self.density)
        if self.plan is not None and self.mode != "auto":
            raise ConfigurationError(f"mode is {self.mode!r} and a plan is given, too; expected one of them")
        if self.mode == "predictor" and self.calibration is None:
            raise ConfigurationError(
                "mode predictor needs calibration data, since what predicts on random input predicts on no other; "
                "give --calibration"
            )

    def _check_density(self, density: float) -> None:
        if not (isinstance(density, int | float) and 0.0 < density < 1.0):
            raise ConfigurationError(f"density is {density!r}; expected a share above 0 and below 1")
        if self.mode == "predictor":
            raise ConfigurationError(
                "density is given with mode 'predictor', whose scores say what is kept; expected auto, exact, certified"
            )
        if self.plan is not None:
            raise ConfigurationError("density and a plan are given; expected one (a plan has target_density)")
        if self.calibration is None:
            raise ConfigurationError(
                "density needs calibration data, since a threshold for random input fits no other; give --calibration"
            )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "ExportSettings":
        """Make settings of keyword options; `auto` stands for None, and paths may be strings.

        Raises
        ------
        ConfigurationError
            If an option is unknown or its value is wrong.
        """
        refuse_unknown(cls, options)
        values = {k: v for k, v in options.items() if not (k in {"top_k", "predictor_rank"} and v == "auto")}
        for path in ("calibration", "cache", "plan", "costs", "evaluate"):
            if values.get(path) is not None:
                values[path] = Path(values[path])
        return cls(**values)


def refuse_unknown(settings: type, options: Iterable[str]) -> None:
    """Refuse an option that is no field of the settings, a dataclass."""
    known = {f.name for f in fields(settings)}
    for option in options:
        if option not in known:
            raise ConfigurationError(f"unknown option {option!r}; expected one of {', '.join(sorted(known))}")


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{what} is {value!r}; expected one of {', '.join(allowed)}")


def _at_least(what: str, value: int | None, least: int) -> None:
    if value is not None and (not isinstance(value, int) or value < least):
        raise ConfigurationError(f"{what} is {value!r}; expected a whole number of at least {least}")
