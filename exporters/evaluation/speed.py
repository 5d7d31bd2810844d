"""How fast an artifact is against its dense graph on the first of a person's examples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from lazyneuron.engine.timing import Timing, ratio, time_in_turns
from lazyneuron.exporters.batches import Feed, batch_size, batches
from lazyneuron.exporters.evaluation.running import Graphs
from lazyneuron.exporters.examples import Example

__all__ = ["SpeedCase", "time_both"]

_BATCHES = (1, 8)


@dataclass(frozen=True, slots=True)
class SpeedCase:
    """One batch.

    Attributes
    ----------
    batch
        Examples in it.
    dense, sparse
        Seconds.
    faster
        How many times as fast the artifact is, turn by turn.
    """

    batch: int
    dense: Timing
    sparse: Timing
    faster: Timing

    @property
    def words(self) -> str:
        """The batch, in words."""
        return f"{self.batch} example{'' if self.batch == 1 else 's'}"

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "batch": self.batch,
            "dense_milliseconds": 1e3 * self.dense.median,
            "sparse_milliseconds": 1e3 * self.sparse.median,
            "times_as_fast": {"median": self.faster.median, "quartiles": [self.faster.low, self.faster.high]},
            "turns": self.faster.runs,
        }


def time_both(
    graphs: Graphs,
    examples: Callable[[], Iterator[Example]],
    *,
    seconds: float,
    clock: Callable[[], float],
) -> tuple[SpeedCase, ...]:
    """Time both graphs in turns on the first example, and on the first eight together where the model takes them.

    Parameters
    ----------
    graphs
        Both, open.
    examples
        Gives the examples.
    seconds
        How long each graph is timed in each case, at least.
    clock
        What tells the seconds.
    """
    feeds: dict[int, Feed] = {}
    for wanted in _BATCHES:
        size = batch_size(graphs.inputs, wanted)
        feed = next(batches(islice(examples(), size), graphs.inputs, size))
        feeds.setdefault(len(feed[graphs.inputs[0].name]), feed)
    return tuple(_case(graphs, batch, feed, seconds, clock) for batch, feed in feeds.items())


def _case(graphs: Graphs, batch: int, feed: Feed, seconds: float, clock: Callable[[], float]) -> SpeedCase:
    names = [output.name for output in graphs.outputs]
    work = {
        "sparse": partial(graphs.sparse.run, None, feed),  # serving fetches the counts, too
        "dense": partial(graphs.dense.run, names, feed),
    }
    times = time_in_turns(work, seconds=seconds, clock=clock)
    return SpeedCase(
        batch, Timing.of(times["dense"]), Timing.of(times["sparse"]), ratio(times["dense"], times["sparse"])
    )
