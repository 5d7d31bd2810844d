"""How fast a model works off a backlog, measured from its batches. Pure."""

import math

__all__ = ["Speed"]

_MEMORY_SECONDS = 2.0


class Speed:
    """Tokens per second, padding not counted, while more waited than ran.

    Such batches make the figure: a lone request's batch is small, and would make the model look slower than it is when
    it matters. It is what finished over the time in which there was work, so several batches at once and the turns of
    other models are in it; older samples fade with a time constant of two seconds of work. A batch without a backlog
    counts only where it was faster than the figure: whoever was once slow, and is sent little for it, is not held to
    be slow for ever.

    Attributes
    ----------
    tokens_per_second
        0 until it is known.
    """

    def __init__(self) -> None:
        self.tokens_per_second = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._last_end = -math.inf

    def finished(self, tokens: int, since: float, ended: float, *, backlog: bool) -> None:
        """Note a batch.

        Parameters
        ----------
        tokens
            Its size.
        since, ended
            Seconds on one clock: from when on there has been work without a break, and the batch's end.
        backlog
            Whether more waited when it was taken.
        """
        seconds = max(0.0, ended - max(self._last_end, since))
        self._last_end = max(self._last_end, ended)
        faster = self.tokens_per_second > 0 and tokens > self.tokens_per_second * seconds
        if not backlog and not faster:
            return
        fade = math.exp(-seconds / _MEMORY_SECONDS) if backlog else 0.0  # it is so fast at least
        weight = min(1.0, _MEMORY_SECONDS / seconds) if seconds else 1.0  # a long stall fades like anything else
        self._tokens = self._tokens * fade + tokens * weight
        self._seconds = self._seconds * fade + seconds * weight
        if self._seconds > 0:
            self.tokens_per_second = self._tokens / self._seconds
