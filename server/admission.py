"""Who may wait: a queue bounded by tokens and by requests."""

from dataclasses import dataclass

from lazyneuron.engine.errors import InputError, QueueFullError
from lazyneuron.server.config import QueueConfig

__all__ = ["Admission"]

_SHORTEST_RETRY, _LONGEST_RETRY = 0.01, 10.0


@dataclass
class Admission:
    """The room in one model's queue.

    Attributes
    ----------
    config
        The bounds.
    requests, tokens
        What waits now.
    """

    config: QueueConfig
    requests: int = 0
    tokens: int = 0

    def admit(self, tokens: int, *, tokens_per_second: float) -> None:
        """Take room for a request.

        Parameters
        ----------
        tokens
            The request's size.
        tokens_per_second
            How fast the queue has been draining (0 when that is not known), for the hint when to try again.

        Raises
        ------
        InputError
            If the request would not fit an empty queue.
        QueueFullError
            If there is no room now.
        """
        if tokens > self.config.max_tokens:
            expected = f"at most {self.config.max_tokens} (the server's queue.max_tokens); send it in parts"
            raise InputError("inputs", got=f"{tokens} tokens", expected=expected)
        if self.requests >= self.config.max_requests or self.tokens + tokens > self.config.max_tokens:
            retry_after = self.tokens / tokens_per_second if tokens_per_second > 0 else _SHORTEST_RETRY
            retry_after = min(max(retry_after, _SHORTEST_RETRY), _LONGEST_RETRY)
            raise QueueFullError(
                f"the queue is full: {self.requests} of {self.config.max_requests} requests and {self.tokens} of "
                f"{self.config.max_tokens} tokens wait, and this request has {tokens}; try again in "
                f"{retry_after:.2f} s",
                retry_after=retry_after,
            )
        self.requests += 1
        self.tokens += tokens

    def release(self, tokens: int) -> None:
        """Give a request's room back: it runs, or nobody waits for it any more."""
        self.requests -= 1
        self.tokens -= tokens
