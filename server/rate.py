"""So many of something in each second, and no more."""

import time

__all__ = ["PerSecond"]


class PerSecond:
    """Tells whether there may be one more in this second.

    Parameters
    ----------
    most
        In a second.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._second = 0
        self._taken = 0

    def take(self) -> bool:
        """Count one; return whether it is among those that may be."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._most
