"""What every service calls: find the model, check the input, queue it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lazyneuron.engine.errors import ShuttingDownError
from lazyneuron.engine.heads.answers import Answer as Reading
from lazyneuron.engine.model import Model, Prediction
from lazyneuron.engine.requests import Request
from lazyneuron.engine.session import usable_cores
from lazyneuron.server.budget import asked_budget
from lazyneuron.server.calls import current_call
from lazyneuron.server.config import ServerConfig
from lazyneuron.server.devices import Devices
from lazyneuron.server.limits import check_inputs, check_request
from lazyneuron.server.metrics import Metrics
from lazyneuron.server.repository import Entry, Repository
from lazyneuron.server.scheduler import Answer, Scheduler
from lazyneuron.server.served import ServedModel
from lazyneuron.server.tensors import Array
from lazyneuron.server.watching import watch
from lazyneuron.server.workers import Workers

__all__ = ["Inputs", "ServedModel", "Serving"]

Inputs = Mapping[str, Array] | str | bytes

# From this size on, checking the input (a pass over all numbers; tokenizing) and reading the outputs are left to a
# thread, so that the event loop does not stand still; below it, the hop would cost more than the work.
_LARGE_BYTES = 64 * 1024


class Serving:
    """The models, ready for requests from `start` on until `stop` is called.

    Parameters
    ----------
    path
        A model repository, or one model.
    config
        The server's settings.
    metrics
        Where requests and loads are recorded.
    devices
        Where the models run; None: on the CPU.

    Raises
    ------
    ConfigurationError
        If a trusted key cannot be read.
    """

    def __init__(self, path: Path, config: ServerConfig, metrics: Metrics, devices: Devices | None = None) -> None:
        self.repository = Repository(path, config, metrics, self._serve, devices=devices)
        self._config = config
        self._metrics = metrics
        self._workers = Workers()
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        # More at once would be no faster, and each may hold hundreds of megabytes.
        self._decoding = asyncio.Semaphore(usable_cores())

    async def start(self) -> None:
        """Load the models, and follow the folder from now on if the settings say so.

        Raises
        ------
        ArtifactError
            If no model can be loaded.
        """
        await self.repository.start()
        if self._config.repository.watch != "off":
            self._watching = asyncio.create_task(watch(self.repository, self._config.repository))

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self._stopping

    def find(self, name: str, version: int | None = None) -> ServedModel:
        """Return a model by name and, where one is given, version; else the highest that is served.

        Raises
        ------
        ModelNotFoundError
            Naming the models, or the versions, that there are.
        ModelUnavailableError
            If the model takes no requests just now.
        """
        return self.repository.find(name, version)

    def index(self) -> list[Entry]:
        """Return every version that there is, with its state."""
        return self.repository.index()

    async def load(self, name: str) -> None:
        """Serve a model as the folder has it now.

        Raises
        ------
        ModelNotFoundError, ModelLoadError
            As `Repository.load`.
        ShuttingDownError
            Once the server stops.
        """
        self._refuse_if_stopping()
        await self.repository.load(name)

    async def unload(self, name: str) -> None:
        """Take a model out of service once it has answered what it has admitted.

        Raises
        ------
        ModelNotFoundError
            As `Repository.unload`.
        ShuttingDownError
            Once the server stops.
        """
        self._refuse_if_stopping()
        await self.repository.unload(name)

    async def predict(
        self,
        served: ServedModel,
        decode: Callable[[], Inputs],
        *,
        size: int,
        image: bool = False,
        budget: float | None = None,
        quality: str = "",
        deadline: float | None = None,
        row_counts: bool = False,
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
            The share of the exported k, 0 < budget <= 1; None: the quality's, or 1.
        quality
            The name of a class of the configuration; empty: none.
        deadline
            On the clock of `time.monotonic`.
        row_counts
            Whether the prediction shall tell what each row used, too.

        Raises
        ------
        LazyneuronError
            As `Scheduler.submit`; InputError if the input does not fit; ModelUnavailableError if the version has been
            unloaded since `find`; ShuttingDownError once the server stops.
        """
        self._refuse_if_stopping()
        call = current_call()
        call.model = served.model
        share, exact = asked_budget(self._config.budget, budget, quality)
        served.scheduler.check(deadline, call.client)
        limits = self._config.limits

        def make() -> Request:
            inputs = decode()
            check_inputs(limits, inputs)
            made = served.model.request(inputs, share)
            check_request(limits, made)
            return replace(made, row_counts=True) if row_counts else made

        with served.in_use():
            if image or size >= _LARGE_BYTES:
                async with self._decoding:
                    request = await asyncio.to_thread(make)
            else:
                request = make()
            served.lately.append(request.axes)
            return await served.scheduler.submit(request, deadline, call.client, exact=exact)

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
        if self._watching is not None:
            self._watching.cancel()
        await self.repository.stop()

    def close(self) -> None:
        """Let all worker threads end."""
        self.repository.close()
        self._workers.close()

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise ShuttingDownError("the server is stopping and takes no new requests; send it to another")

    def _serve(self, model: Model) -> ServedModel:
        return ServedModel(model, Scheduler(model, self._config, self._metrics, self._workers))
