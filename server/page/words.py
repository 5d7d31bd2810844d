"""Numbers as a person reads them."""

import math

__all__ = ["count", "duration", "nice_top", "operations", "per_second", "seconds", "share", "visible", "whole_share"]

_SPACE = "\N{NO-BREAK SPACE}"
_NONE = "\N{EN DASH}"
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def share(value: float) -> str:
    """Return a share in percent: 0.0312 is "3.1 %", 0.00042 "0.042 %"."""
    if math.isnan(value):
        return _NONE
    percent = value * 100
    size = abs(percent)
    digits = 1 if size >= 1 or size == 0 else min(4, 1 - math.floor(math.log10(size)))
    return f"{percent:.{digits}f}{_SPACE}%".replace("-", "\N{MINUS SIGN}")


def whole_share(value: float) -> str:
    """Return a share in whole percent: 0.2 is "20 %"."""
    return f"{value * 100:.0f}{_SPACE}%"


def operations(value: float) -> str:
    """Return floating-point operations: 1.2e12 is "1.2 TFLOPs"."""
    return _scaled(abs(value), ("", "k", "M", "G", "T", "P", "E"), "FLOPs")


def seconds(value: float) -> str:
    """Return a short time: 0.0042 is "4.2 ms", 75 "75 s", beyond two minutes as `duration`."""
    if math.isnan(value):
        return _NONE
    value = abs(value)
    if value >= 2 * _MINUTE:
        return duration(value)
    if value >= 1 or value == 0:
        return f"{_three(value)}{_SPACE}s"
    return f"{_three(value * 1000)}{_SPACE}ms"


def duration(value: float) -> str:
    """Return a time in words: 75 is "1 min 15 s"."""
    whole = round(value)
    if whole < _MINUTE:
        return f"{whole}{_SPACE}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}{_SPACE}min {whole % _MINUTE}{_SPACE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}{_SPACE}h {whole % _HOUR // _MINUTE}{_SPACE}min"
    return f"{whole // _DAY}{_SPACE}d {whole % _DAY // _HOUR}{_SPACE}h"


def per_second(value: float) -> str:
    """Return a rate's number: one digit after the point below ten."""
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def visible(text: str) -> str:
    """Return a text that can be seen: one of blanks alone in quotes, as Python writes it."""
    return text if text.strip() else repr(text)


def count(value: float) -> str:
    """Return a whole number, with its thousands apart."""
    return f"{value:,.0f}"


def nice_top(value: float) -> float:
    """Return the least of 1, 2, 5, 10, 20, 50 and 100 % that a share does not exceed: where bars end."""
    return next((top for top in _TOPS if value <= top), 1.0)


def _scaled(value: float, prefixes: tuple[str, ...], unit: str) -> str:
    power = 0
    while value >= 999.5 and power + 1 < len(prefixes):
        value, power = value / 1000, power + 1
    return f"{_three(value)}{_SPACE}{prefixes[power]}{unit}"


def _three(value: float) -> str:
    """Return a number, at least 0, with two digits that count, and no digit after the point from 100 on."""
    if value == 0:
        return "0"
    if value >= 100:
        return f"{value:,.0f}"
    rounded = float(f"{value:.2g}")
    return f"{rounded:.{min(max(0, 1 - math.floor(math.log10(rounded))), 4)}f}"
