"""The GPU kernels in Triton's interpreter, in a process of their own.

Triton decides when it is first imported whether it interprets, and torch may import it for others; a process of its
own leaves everybody's triton as it is.
"""

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

Arrays = dict[str, np.ndarray]

# Tiles whose borders small shapes cross, and of which an interpreter needs few.
SMALL_TILES = {
    "quantize_rows": {"BLOCK_DEPTH": 64},
    "list_masked": {"BLOCK_NEURONS": 64},
    "list_scored": {"BLOCK_NEURONS": 64},
    "project": {"BLOCK_NEURONS": 32, "BLOCK_DEPTH": 32, "UNROLL": 2},
    "select": {"BLOCK_NEURONS": 64},
    "down": {"BLOCK_NEURONS": 16, "BLOCK_COLUMNS": 64},
    "reduce_down": {"BLOCK_COLUMNS": 64},
    "union_lists": {"BLOCK_NEURONS": 64},
}


class Interpreter:
    """Runs the functions of this module that take arrays and keywords, each in the one child process."""

    def __init__(self) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.engine.gpu.interpreter"]
        self._child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, function: str, arrays: Arrays, **options: Any) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        pickle.dump((function, arrays, options), self._child.stdin)
        self._child.stdin.flush()
        answer, failure = pickle.load(self._child.stdout)
        assert failure is None, failure
        return answer

    def close(self) -> None:
        self._child.communicate()
        assert self._child.returncode == 0


def sparse_down(
    arrays: Arrays, *, bf16: tuple[str, ...] = (), by_tiles: bool = False, programs: int = 1, **attributes: Any
) -> tuple[np.ndarray, ...]:
    """As `reference.sparse_down`; `bf16` names float32 weights to be given as bfloat16."""
    from lazyneuron.engine.gpu import operators

    given = _tensors(arrays, bf16)
    pre = given["pre"]
    down = operators.DownProjection(given["down"], given.get("down_bias"), given.get("down_scale"), by_tiles)
    operator = operators.SparseDown(down, given.get("up_bias"), operators.Gating(**attributes))
    # How many programs are wanted decides how rows are split.
    with mock.patch.object(operators, "PROGRAMS", programs):
        y, active = operator(pre.reshape(-1, pre.shape[-1]), _flat(given.get("budget")))
    leading = arrays["pre"].shape[:-1]
    return y.numpy().reshape(*leading, y.shape[-1]), active.numpy().reshape(leading)


def sparse_mlp(
    arrays: Arrays,
    *,
    mode: str = "certified",
    score_threshold: float = 0.0,
    miss_probability: float = 0.0,
    bf16: tuple[str, ...] = (),
    programs: int = 1,
    **attributes: Any,
) -> tuple[np.ndarray, ...]:
    """As `reference.sparse_mlp`."""
    from lazyneuron.engine.gpu import operators

    given = _tensors(arrays, bf16)
    gating = operators.Gating(**attributes)
    up = operators.NeuronProjection(given["up"], given.get("up_scale"), given.get("up_bias"))
    gate = operators.NeuronProjection(given["gate"], given.get("gate_scale")) if "gate" in given else None
    down = operators.DownProjection(given["down"], given.get("down_bias"), given.get("down_scale"))
    coordinates = arrays.get("screen_shift"), arrays.get("screen_scale")
    screen = operators.screen_of(up, gating, *coordinates, miss_probability) if mode == "certified" else None
    operator = operators.SparseMLP(up, down, gate, gating, mode=mode, score_threshold=score_threshold, screen=screen)
    x, scores = given["x"], given.get("scores")
    scores = scores if scores is None else scores.reshape(-1, scores.shape[-1])
    with mock.patch.object(operators, "PROGRAMS", programs):
        y, active, candidates = operator(x.reshape(-1, x.shape[-1]), _flat(given.get("budget")), scores)
    leading = arrays["x"].shape[:-1]
    return (
        y.numpy().reshape(*leading, y.shape[-1]),
        active.numpy().reshape(leading),
        candidates.numpy().reshape(leading),
    )


def screened(arrays: Arrays, *, wide: bool = False, **attributes: Any) -> np.ndarray:
    """Which neurons the certified screen lets through, bool [rows, F]."""
    from lazyneuron.engine.gpu import operators

    given = _tensors(arrays, ())
    up = operators.NeuronProjection(given["up"], given.get("up_scale"), given.get("up_bias"))
    miss = attributes.pop("miss_probability", 0.0)
    coordinates = arrays.get("screen_shift"), arrays.get("screen_scale")
    neurons = operators.screen_of(up, operators.Gating(**attributes), *coordinates, miss)
    screen = operators.Screen.of(neurons, given["x"].device)
    with mock.patch.object(operators, "ROWS_FOR_WIDE_SCREEN", 1 if wide else 1 << 30):
        index, found = screen.candidates(given["x"], given.get("budget"))
    candidate = np.zeros(index.shape, bool)
    for row, count in enumerate(found.tolist()):
        listed = index[row, : max(count, 0)].numpy()
        assert (np.diff(listed) > 0).all()
        candidate[row, listed] = True
    return candidate


def constants(arrays: Arrays) -> tuple[dict[str, int], tuple[int, int, int]]:
    """The flags' bits as the kernels have them; then POISONED, SKIPPED and SEGMENTS."""
    from lazyneuron.engine.gpu.configurations import FLAGS
    from lazyneuron.engine.gpu.kernels import common, down

    flags = {name: getattr(common, name.upper()).value for name in FLAGS}
    return flags, (common.POISONED.value, common.SKIPPED.value, down.SEGMENTS.value)


def _tensors(arrays: Arrays, bf16: tuple[str, ...]) -> dict[str, Any]:
    import torch

    given = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    return given | {name: given[name].bfloat16() for name in bf16}


def _flat(budget: Any) -> Any:
    return None if budget is None else budget.reshape(-1)


@contextlib.contextmanager
def tiles(*, compiled: bool) -> Iterator[None]:
    """Launch kernels with the tile sizes they are compiled with, or with SMALL_TILES."""
    from lazyneuron.engine.gpu.configurations import CONFIGURATIONS

    small = {
        name: dataclasses.replace(one, constants={**one.constants, **SMALL_TILES.get(one.kernel, {})})
        for name, one in CONFIGURATIONS.items()
    }
    with mock.patch.dict(CONFIGURATIONS, {} if compiled else small):
        yield


@contextlib.contextmanager
def _standard_output_kept() -> Iterator[Any]:
    """Standard output for answers alone; what is printed goes to standard error."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        yield answers


def main() -> None:
    with _standard_output_kept() as answers:
        while True:
            try:
                function, arrays, options = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                with tiles(compiled=options.pop("compiled_tiles", False)):
                    answer = globals()[function](arrays, **options), None
            except Exception as error:  # noqa: BLE001 - it is told
                answer = None, f"{type(error).__name__}: {error}"
            pickle.dump(answer, answers)
            answers.flush()


if __name__ == "__main__":
    main()
