"""Sentence embeddings: pooling and normalisation inside the graph, as a sentence-transformers folder describes them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lazyneuron.engine.errors import CheckpointError

__all__ = ["OUTPUT", "TASK", "Pooling", "pooling_of"]

TASK = "sentence-embedding"
OUTPUT = "sentence_embedding"

_MODULES = "modules.json"
_STATES = "last_hidden_state"

Pool = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""States [batch, tokens, d] and a float mask [batch, tokens, 1] to [batch, d]."""


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _mean_sqrt_len(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9).sqrt()


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask > 0, states, torch.full_like(states, -1e9)).amax(1)


def _first(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.gather(1, mask.argmax(1, keepdim=True).expand(-1, -1, states.shape[-1])).squeeze(1)


def _last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)[None, :, None]
    return states.gather(1, (mask * places).argmax(1, keepdim=True).expand(-1, -1, states.shape[-1])).squeeze(1)


def _weighted_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)[None, :, None]
    return _mean(states, mask * places)


# In the order in which sentence-transformers joins them where there are several.
_POOLS: dict[str, Pool] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """How the tokens' states become one vector.

    Attributes
    ----------
    modes
        Names of pooling modes; the vectors of several are joined.
    normalise
        Whether the vector is divided by its Euclidean length.
    """

    modes: tuple[str, ...]
    normalise: bool

    def attach(self, module: torch.nn.Module) -> None:
        """Let the module's answer carry the vector too, under `OUTPUT`."""

        def add(_: torch.nn.Module, args: Any, inputs: dict[str, torch.Tensor], answer: Any) -> Any:  # noqa: ANN401, ARG001
            answer[OUTPUT] = self(answer[_STATES], inputs["attention_mask"])
            return answer

        module.register_forward_hook(add, with_kwargs=True)

    def __call__(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return a vector for each text.

        Parameters
        ----------
        states
            [batch, tokens, d]
        mask
            [batch, tokens], not 0 where a token is real.
        """
        real = (mask != 0).to(states.dtype)[..., None]
        vector = torch.cat([_POOLS[mode](states, real) for mode in self.modes], -1)
        return torch.nn.functional.normalize(vector, dim=-1) if self.normalise else vector


def pooling_of(folder: Path, checkpoint: str, task: str | None) -> Pooling | None:
    """Return a checkpoint's pooling: what its modules.json says; for `TASK` without one the mean; else None.

    Raises
    ------
    CheckpointError
        If it has modules, or ways of pooling, that are not known.
    """
    if task not in {None, TASK}:
        return None
    path = folder / _MODULES
    if not path.is_file():
        return Pooling(("mean",), normalise=False) if task == TASK else None
    instead = "choose --task feature-extraction for the tokens' states"
    try:
        modules = [(str(m["type"]).rsplit(".", 1)[-1], str(m["path"])) for m in _json(path)]
        others = [kind for kind, _ in modules if kind not in {"Transformer", "Pooling", "Normalize"}]
        if others:
            raise CheckpointError(f"{checkpoint}: {_MODULES} has a {others[0]}, which is not taken; {instead}")
        pooling = next((where for kind, where in modules if kind == "Pooling"), None)
        modes = _modes(_json(folder / pooling / "config.json")) if pooling is not None else ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: its pooling is not readable ({error}); {instead}") from error
    if not modes or not set(modes) <= set(_POOLS):
        raise CheckpointError(
            f"{checkpoint}: pooling {modes or 'by nothing'} is not one of {', '.join(_POOLS)}; {instead}"
        )
    return Pooling(modes, normalise=any(kind == "Normalize" for kind, _ in modules))


def _modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the pooling's modes in the order in which they are joined: newer files name them, older ones switch."""
    named = config.get("pooling_mode")
    if named is not None:
        return (named,) if isinstance(named, str) else tuple(named)
    chosen = {mode for switch, mode in _SWITCHES.items() if config.get(switch)}
    return tuple(mode for mode in _POOLS if mode in chosen)


def _json(path: Path) -> Any:  # noqa: ANN401 (whatever it holds)
    return json.loads(path.read_text(encoding="utf-8"))
