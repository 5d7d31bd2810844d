"""How much of the exported k a request may spend: what it asks for, by number or class, and what load leaves of it."""

from lazyneuron.engine.errors import InputError
from lazyneuron.server.config import BudgetConfig

__all__ = ["BudgetControl", "asked_budget"]


def asked_budget(config: BudgetConfig, budget: float | None, quality: str) -> tuple[float, bool]:
    """Return the budget that a request asks for, and whether it is never lowered.

    Parameters
    ----------
    config
        The classes there are.
    budget
        A share of the exported k; None: none was given.
    quality
        The name of a class; empty: none was given.

    Raises
    ------
    InputError
        If there is no such class, or both are given.
    """
    if not quality:
        return (1.0 if budget is None else budget), False
    if quality not in config.classes:
        expected = f"one of {', '.join(sorted(config.classes)) or 'no classes: the server has none'}"
        raise InputError("quality", got=repr(quality[:40]), expected=expected)
    if budget is not None:
        raise InputError("budget", got=f"{budget!r} beside quality {quality!r}", expected="one of the two")
    return config.classes[quality], quality in config.exact


class BudgetControl:
    """The greatest budget that load allows now, from the queue's pressure.

    It falls in a straight line from 1 at `from_pressure` to `lowest` at `to_pressure`, as soon as pressure rises; it
    rises again only as pressure has fallen by `hysteresis`, so it does not swing with every batch.

    Parameters
    ----------
    config
        The line.

    Attributes
    ----------
    lowers
        Whether load lowers it at all.
    present
        The greatest budget, `config.lowest` to 1.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self.lowers = config.lowest < 1.0
        self.present = 1.0

    def update(self, pressure: float) -> float:
        """Take the pressure into account, 0 (nothing waits) to 1 (the queue is full), and return `present`."""
        if self.lowers:
            highest, least = self._line(pressure), self._line(pressure + self._config.hysteresis)
            self.present = min(max(self.present, least), highest)
        return self.present

    def _line(self, pressure: float) -> float:
        config = self._config
        share = (pressure - config.from_pressure) / (config.to_pressure - config.from_pressure)
        return 1.0 - (1.0 - config.lowest) * min(max(share, 0.0), 1.0)
