"""The training loop: plain, resumable after any step, the same again for the same seed."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.finetune.data import Data
from lazyneuron.exporters.finetune.measuring import Figures, measure, prepared
from lazyneuron.exporters.finetune.models import Models
from lazyneuron.exporters.finetune.objective import answers, distance, own_loss
from lazyneuron.exporters.finetune.settings import FinetuneSettings
from lazyneuron.exporters.finetune.state import write_state
from lazyneuron.exporters.progress import Progress

__all__ = ["Training"]

_WARM_UP = 20  # steps
_LONGEST_STEP = 1.0  # of the gradient's norm
_TOLD_EVERY = 20.0  # seconds
_MEASURED_MEANWHILE = 64  # examples

_clock: Callable[[], float] = time.monotonic


class Training:
    """The student, its optimiser, and how far they are.

    Attributes
    ----------
    step
        Steps done.
    seconds
        Time in training, over all runs.
    history
        What was measured meanwhile: step, minutes, CPU minutes, loss and figures.

    Parameters
    ----------
    path
        Where the state is kept.
    fingerprint
        What the run is of; kept in the state.
    """

    def __init__(
        self, models: Models, data: Data, settings: FinetuneSettings, path: Path, fingerprint: dict[str, Any]
    ) -> None:
        self._models, self._data, self._settings = models, data, settings
        self._path, self._fingerprint = path, fingerprint
        self.step = 0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.before: dict[str, dict[str, Any]] = {}
        self._parameters = list(models.student.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        self._task = models.opened.head.task
        if settings.lm_weight and self._task not in {"text-generation", "seq2seq"}:
            raise ConfigurationError(f"lm_weight is for language models; a {self._task} model has no such loss")

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where a state was written."""
        self._models.student.load_state_dict(state["student"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self.history, self.before = state["history"], state["before"]

    def save(self) -> None:
        """Write the state."""
        state = {
            "fingerprint": self._fingerprint,
            "student": self._models.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "history": self.history,
            "before": self.before,
        }
        write_state(self._path, state)

    def done(self) -> float:
        """Return which share of the run is done, 1 at its end."""
        steps, minutes = self._settings.steps, self._settings.minutes
        shares = [self.step / steps] if steps is not None else []
        if minutes is not None:
            shares.append(self.seconds / (60 * minutes))
        return min(max(shares), 1.0)

    def run(self, progress: Progress) -> None:
        """Train to the end.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, when the step is done and the state is written.
        ConfigurationError
            If the loss is no longer finite.
        """
        told = -math.inf
        with _stoppable() as stopped:
            while self.done() < 1:
                if _clock() - told >= _TOLD_EVERY:
                    told = _clock()
                    self._tell(progress)
                began, cpu = _clock(), time.process_time()
                loss = self._train()
                self.step += 1
                self.seconds += _clock() - began
                self.cpu_seconds += time.process_time() - cpu
                if self.step % self._settings.validate_every == 0 or self.step == 1:
                    self._note(loss)
                if stopped() or self.step % self._settings.save_every == 0 or self.done() == 1:
                    self.save()  # at the end, too: what follows takes a while
                if stopped():
                    raise KeyboardInterrupt

    def rate(self) -> float:
        """Return the step size of the next step."""
        warm = min(1.0, (self.step + 1) / _WARM_UP)
        return self._settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * self.done()))

    def _train(self) -> float:
        settings, models = self._settings, self._models
        examples = self._data.batch(self.step, settings.batch, settings.seed)
        batch, mask = prepared(examples, models, self._data, settings.seed * 1_000_003 + self.step)
        with torch.no_grad():
            wanted = answers(models.teacher, batch, models.fields)
        models.gates.penalise = settings.sparsity_penalty > 0
        models.gates.begin(mask)
        made = answers(models.student, batch, models.fields)
        loss = (1 - settings.lm_weight) * distance(made, wanted, mask).loss
        if settings.lm_weight:
            loss = loss + settings.lm_weight * own_loss(made["logits"], batch, self._task)
        if models.gates.penalise:
            loss = loss + settings.sparsity_penalty * models.gates.spread()
            models.gates.penalise = False
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigurationError(
                f"the loss is {value} at step {self.step + 1}; give a smaller --learning-rate than "
                f"{settings.learning_rate:g}"
            )
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(self._parameters, _LONGEST_STEP)
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate()
        self._optimizer.step()
        return value

    def _note(self, loss: float) -> None:
        models, data, settings = self._models, self._data, self._settings
        some = data.held_out[:_MEASURED_MEANWHILE]
        figures: Figures = measure(models.student, models, data, some, settings.batch, settings.seed)
        minutes = {"minutes": round(self.seconds / 60, 2), "cpu_minutes": round(self.cpu_seconds / 60, 2)}
        self.history.append({"step": self.step, **minutes, "loss": loss, **figures.document()})

    def _tell(self, progress: Progress) -> None:
        steps, minutes = self._settings.steps, self._settings.minutes
        text = f"training: step {self.step}"
        if minutes is not None:
            text += f", {self.seconds / 60:.1f} of {minutes:g} minutes"
        if self.history:
            last = self.history[-1]
            shown = "distance" if last["perplexity"] is None else "perplexity"
            text += f", held-out {shown} {last[shown]:.4g} at step {last['step']}"
        progress.step(text, steps)
        if steps is not None:
            progress.advance(self.step)


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait for the step in hand, since half a step is no state to go on from; a second one does not wait."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: object) -> None:  # noqa: ARG001 (a signal handler's signature)
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
