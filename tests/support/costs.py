"""Costs that no machine measured: a fixed price a multiply-add, so that what a plan chooses is known."""

from pathlib import Path

from lazyneuron.engine.cost import CostModel, Curve, Mode
from lazyneuron.engine.cost_files import write_costs
from lazyneuron.engine.machine import Machine

DENSITIES = (0.0, 0.5, 1.0)
CANDIDATES = 1.5
"""How many times the active neurons the candidates are, up to all of them."""

MACHINE = Machine(cpu="none", instruction_set="scalar", onnxruntime="0", lazyneuron="0")


def linear_costs(
    *,
    screen: float = 0.2,
    predictor: float = 0.1,
    rank: int = 64,
    candidate: float = 1.0,
    active: float = 1.0,
    unit: float = 1e-9,
    shapes: tuple[tuple[int, int], ...] = ((256, 1024),),
    rows: tuple[int, ...] = (1, 64),
    machine: Machine = MACHINE,
) -> CostModel:
    """Price a dense projection at `unit` seconds a multiply-add, all else as a multiple of that.

    Parameters
    ----------
    screen
        The certified screen, for each neuron.
    predictor
        The products of a predictor of that rank, for each neuron.
    candidate
        A candidate's up projection.
    active
        An active neuron's down projection.
    """

    def candidates(density: float) -> float:
        return min(CANDIDATES * density, 1.0)

    prices = {
        "down": lambda a: 0.01 + active * a,
        "exact": lambda a: 1.01 + active * a,
        "certified": lambda a: 0.01 + screen + candidate * candidates(a) + active * a,
        "predictor": lambda a: 0.01 + predictor + candidate * candidates(a) + active * a,
    }
    curves = []
    for d_model, d_ff in shapes:
        for count in rows:
            size = d_model * d_ff * count * unit
            curves += [_flat(mode, d_model, d_ff, count, price * size) for mode, price in (("dense", 2), ("int8", 1))]
            curves += [
                Curve(
                    mode=mode,
                    d_model=d_model,
                    d_ff=d_ff,
                    rows=count,
                    density=DENSITIES,
                    candidates=tuple(candidates(a) if mode in {"certified", "predictor"} else 1.0 for a in DENSITIES),
                    seconds=tuple(price(a) * size for a in DENSITIES),
                    spread=(0.0,) * len(DENSITIES),
                )
                for mode, price in prices.items()
            ]
    return CostModel(machine=machine, threads=1, rank=rank, curves=tuple(curves))


def _flat(mode: Mode, d_model: int, d_ff: int, rows: int, seconds: float) -> Curve:
    one = (1.0,)
    return Curve(
        mode=mode, d_model=d_model, d_ff=d_ff, rows=rows, density=one, candidates=one, seconds=(seconds,), spread=(0.0,)
    )


def write_linear_costs(path: Path, **prices: float) -> Path:
    write_costs(linear_costs(**prices), path)
    return path
