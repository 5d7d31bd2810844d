"""What every service calls: find the model, check the input, queue it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lazyneuron.engine.errors import ModelNotFoundError, ShuttingDownError
from lazyneuron.engine.heads.answers import Answer as Reading
from lazyneuron.engine.model import Model, Prediction
from lazyneuron.engine.requests import Request
from lazyneuron.engine.session import usable_cores
from lazyneuron.server.calls import current_call
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.repository import Repository
from lazyneuron.server.scheduler import Answer, Scheduler
from lazyneuron.server.tensors import Array

__all__ = ["Inputs", "ServedModel", "Serving"]

Inputs = Mapping[str, Array] | str | bytes

# From this size on, checking the input (a pass over all numbers; tokenizing) and reading the outputs are left to a
# thread, so that the event loop does not stand still; below it, the hop would cost more than the work.
_LARGE_BYTES = 64 * 1024


@dataclass(frozen=True)
class ServedModel:
    """A model and its queue."""

    model: Model
    scheduler: Scheduler


class Serving:
    """The loaded models, ready for requests until `stop` is called.

    Parameters
    ----------
    repository
        The models.
    config
        The server's settings.
    metrics
        Where requests are recorded.
    """

    def __init__(self, repository: Repository, config: ServerConfig, metrics: Metrics) -> None:
        self.repository = repository
        self._served = {
            name: ServedModel(model, Scheduler(model, config, metrics)) for name, model in repository.models.items()
        }
        self._stopping = False
        # More at once would be no faster, and each may hold hundreds of megabytes.
        self._decoding = asyncio.Semaphore(usable_cores())

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self._stopping

    def find(self, name: str, version: int | None = None) -> ServedModel:
        """Return a model by name and, where one is given, version.

        Raises
        ------
        ModelNotFoundError
            Naming the models, or the versions, that there are.
        """
        served = self._served.get(name)
        if served is None:
            there = ", ".join(sorted(self._served))
            why = f" ({self.repository.broken[name]})" if name in self.repository.broken else ""
            raise ModelNotFoundError(f"no model named {name[:80]!r}{why}; the server has: {there}")
        if version is not None and version != served.model.version:
            raise ModelNotFoundError(f"{name} has no version {version}; the server has: {served.model.version}")
        return served

    async def predict(
        self,
        served: ServedModel,
        decode: Callable[[], Inputs],
        *,
        size: int,
        image: bool = False,
        budget: float = 1.0,
        deadline: float | None = None,
    ) -> Answer:
        """Decode and check an input, and run it.

        Parameters
        ----------
        served
            From `find`.
        decode
            Gives the input from the wire's message.
        size
            That message's bytes.
        image
            Whether an image is to be decoded, which takes long whatever its size.
        budget
            The share of the exported k, 0 < budget <= 1.
        deadline
            On the clock of `time.monotonic`.

        Raises
        ------
        LazyneuronError
            As `Scheduler.submit`; InputError if the input does not fit; ShuttingDownError once the server stops.
        """
        if self._stopping:
            raise ShuttingDownError("the server is stopping and takes no new requests; send it to another")
        current_call().model = served.model

        def make() -> Request:
            return served.model.request(decode(), budget)

        if image:
            async with self._decoding:
                request = await asyncio.to_thread(make)
        else:
            request = await asyncio.to_thread(make) if size >= _LARGE_BYTES else make()
        return await served.scheduler.submit(request, deadline)

    async def read(self, prediction: Prediction, top: int) -> tuple[Reading, ...]:
        """Return what a prediction's outputs say, one answer for each example.

        Parameters
        ----------
        top
            The most candidates of an answer; 0: no answers.
        """
        if top == 0:
            return ()
        if sum(array.nbytes for array in prediction.outputs.values()) >= _LARGE_BYTES:
            return await asyncio.to_thread(prediction.read, top)
        return prediction.read(top)

    async def stop(self) -> None:
        """Take no new requests; return when the admitted ones are answered."""
        self._stopping = True
        await asyncio.gather(*(served.scheduler.drain() for served in self._served.values()))

    def close(self) -> None:
        """Let all worker threads end."""
        for served in self._served.values():
            served.scheduler.close()
