"""The tables of docs/gpu-roofline.md, as the roofline gives them."""

from collections.abc import Iterable, Iterator, Sequence

from lazyneuron.engine.cost import Mode, Weights
from lazyneuron.engine.gpu.crossovers import MOST_ROWS, density_limit, row_limit, times_as_fast
from lazyneuron.engine.gpu.data_sheets import GPUS, Gpu
from lazyneuron.engine.gpu.roofline import LAUNCH, Kernel, Shape, Work, kernels, seconds
from lazyneuron.engine.gpu.roofline_costs import CANDIDATES

__all__ = ["BEGIN", "END", "tables", "updated"]

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"

_DENSITY = 0.03
_PERCENT = f"{100 * _DENSITY:g} % density"
_SHAPES = (Shape.square(768, 3072), Shape.square(4096, 16384))
_ROWS = (1, 8, 64, 512, 4096)
_CAPTURED = 1e-6
_COLUMNS: tuple[tuple[str, Mode, bool | None], ...] = (
    ("SparseDown", "exact", False),
    ("SparseDown, tiles", "exact", True),
    ("certified", "certified", False),
    ("predictor", "predictor", False),
    ("gate", "gate", False),
)
_BREAKDOWN = (("h100", 1), ("h100", 64), ("h100", 512))


def updated(page: str) -> str:
    """Return a page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """Return all tables, in Markdown."""
    return "\n\n".join((_limits(), _gains("float16"), _rows(), _gains("float32"), _parts()))


def _limits() -> str:
    header = ("", *(gpu.name for gpu in GPUS.values()))
    lines: list[tuple[str, list[str]]] = [
        ("memory, GB/s", [f"{gpu.memory / 1e9:.0f}" for gpu in GPUS.values()]),
        ("level-2 cache, MB", [f"{gpu.cache / 1e6:.0f}" for gpu in GPUS.values()]),
        ("level-2 cache, GB/s (taken)", [f"{gpu.cache_bandwidth / 1e9:.0f}" for gpu in GPUS.values()]),
        ("multiprocessors", [str(gpu.processors) for gpu in GPUS.values()]),
        ("float32, TFLOPS", [f"{gpu.operations['fp32'] / 1e12:.1f}" for gpu in GPUS.values()]),
        ("TF32 tensor cores, TFLOPS", [f"{gpu.operations['tf32'] / 1e12:.0f}" for gpu in GPUS.values()]),
        ("fp16 tensor cores, TFLOPS", [f"{gpu.operations['fp16'] / 1e12:.0f}" for gpu in GPUS.values()]),
        ("int8 tensor cores, TOPS", [f"{gpu.operations['int8'] / 1e12:.0f}" for gpu in GPUS.values()]),
    ]
    return "### The devices\n\n" + _table(header, ((name, *cells) for name, cells in lines))


def _gains(weights: Weights) -> str:
    """Tell how many times as fast at 3 %, and under which density each mode wins at all; all weights of one type."""
    name = "fp16" if weights == "float16" else weights
    header = ("GPU", "block", "rows", f"dense {name}, µs", *(column for column, _, _ in _COLUMNS))

    def lines() -> Iterator[Sequence[str]]:
        for gpu, shape in _each(("a100", "h100")):
            for rows in _ROWS:
                work = Work(shape, rows, weights=weights)
                dense = seconds(gpu, kernels(gpu, "dense", work))
                cells = (_gain(gpu, mode, work, tiles) for _, mode, tiles in _COLUMNS)
                yield (_short(gpu), _block(shape), str(rows), f"{1e6 * dense:.1f}", *cells)

    return f"### Times as fast as dense {name} at {_PERCENT}, and the density under which it wins\n\n" + _table(
        header, lines()
    )


def _gain(gpu: Gpu, mode: Mode, work: Work, tiles: bool | None) -> str:
    limit = density_limit(gpu, mode, work, tiles=tiles, against=work.weights)
    share = "never" if limit is None else "always" if limit >= 1 else f"{100 * limit:.1f} %"
    return f"{times_as_fast(gpu, mode, work, _DENSITY, tiles=tiles, against=work.weights):.2f} ({share})"


def _rows() -> str:
    """Tell up to how many rows each mode wins at 3 %."""
    launches = (("eager", LAUNCH), ("captured", _CAPTURED))
    header = ("GPU", "block", "launches", *(name for name, _, _ in _COLUMNS))

    def lines() -> Iterator[Sequence[str]]:
        for gpu, shape in _each():
            for name, launch in launches:
                limits = (
                    row_limit(gpu, mode, Work(shape, 1), _DENSITY, tiles=tiles, launch=launch)
                    for _, mode, tiles in _COLUMNS
                )
                cells = ("never" if n == 0 else "any" if n >= MOST_ROWS else f"{n:,}" for n in limits)
                yield (_short(gpu), _block(shape), f"{name}, {1e6 * launch:g} µs", *cells)

    return f"### Up to how many rows it wins over dense fp16 at {_PERCENT}\n\n" + _table(header, lines())


def _parts() -> str:
    """Tell what each kernel takes, and what bounds it."""
    header = ("kernel", *(f"{_short(GPUS[name])}, {_count(rows)}" for name, rows in _BREAKDOWN))
    shape = _SHAPES[1]
    columns: list[dict[str, str]] = []
    for name, rows in _BREAKDOWN:
        work = Work(shape, rows, _DENSITY, CANDIDATES["certified"] * _DENSITY)
        columns.append({kernel.name: _bounded(kernel.limits(GPUS[name])) for kernel in _all_parts(GPUS[name], work)})
    names = list(dict.fromkeys(name for column in columns for name in column))
    body = ((name, *(column.get(name, "–") for column in columns)) for name in names)
    title = f"### Each kernel by itself: {_block(shape)}, fp16 weights, {100 * _DENSITY:g} % active, without its launch"
    return f"{title}\n\n" + _table(header, body)


def _all_parts(gpu: Gpu, work: Work) -> list[Kernel]:
    """Return the kernels of all modes, each once, the dense block's first."""
    ways = [kernels(gpu, mode, work, tiles=tiles) for _, mode, tiles in (("", "dense", False), *_COLUMNS)]
    return list({kernel.name: kernel for way in ways for kernel in way}.values())


def _bounded(limits: dict[str, float]) -> str:
    bound = max(limits, key=limits.__getitem__)
    return f"{1e6 * limits[bound]:.2f} µs, {bound}"


def _each(names: Iterable[str] = GPUS) -> Iterator[tuple[Gpu, Shape]]:
    for name in names:
        for shape in _SHAPES:
            yield GPUS[name], shape


def _short(gpu: Gpu) -> str:
    return gpu.name.split()[1]


def _block(shape: Shape) -> str:
    return f"{shape.d_model} / {shape.d_ff}"


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---", *(["---:"] * (len(header) - 1))], *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
