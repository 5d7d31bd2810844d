"""The arithmetic against figures worked out by hand, and what docs/gpu-roofline.md says of it."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine import cost
from lazyneuron.engine.cost_files import COSTS_VARIABLE, load_costs
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.gpu.crossovers import MOST_ROWS, density_limit, row_limit, times_as_fast
from lazyneuron.engine.gpu.data_sheets import GPUS, gpu_reported
from lazyneuron.engine.gpu.roofline import LAUNCH, Kernel, Shape, Work, kernels, main, seconds
from lazyneuron.engine.gpu.roofline_costs import roofline_costs
from lazyneuron.engine.gpu.roofline_page import updated

A100, H100 = GPUS["a100"], GPUS["h100"]
T5, LARGE = Shape.square(768, 3072), Shape.square(4096, 16384)
SPARSE = ("exact", "certified", "predictor", "gate")
PAGE = Path(__file__).parents[3] / "docs" / "gpu-roofline.md"


def part(name, mode, work, gpu=A100, *, tiles=False):
    (found,) = (kernel for kernel in kernels(gpu, mode, work, tiles=tiles) if kernel.name == name)
    return found


def test_one_row_of_a_dense_block_reads_its_weights():
    # 768 x 3072 float16 are 4,718,592 bytes: 2.314 us at 2,039 GB/s, twice, and two launches of 2.5 us.
    assert seconds(A100, kernels(A100, "dense", Work(T5, 1))) == pytest.approx(9.628e-6, rel=1e-3)


def test_many_rows_of_a_dense_block_are_bounded_by_its_products():
    # 2 x 4096 x 768 x 3072 = 1.9327e10 operations: 61.95 us at 312 TFLOPS, twice; 31 MB of hidden values stay in 40 MB.
    assert seconds(A100, kernels(A100, "dense", Work(T5, 4096))) == pytest.approx(5e-6 + 2 * 61.95e-6, rel=1e-3)


def test_hidden_values_that_do_not_fit_into_the_cache_go_through_memory():
    up = part("up (cuBLAS)", "dense", Work(LARGE, 4096))
    assert up.memory == 4096 * 16384 * 2 + 4096 * (4096 + 16384) * 2
    assert part("up (cuBLAS)", "dense", Work(T5, 4096)).memory == 768 * 3072 * 2


def test_the_kernels_of_a_certified_block():
    work = Work(T5, 1, 0.03, 0.045)
    names = [kernel.name for kernel in kernels(A100, "certified", work, tiles=False)]
    assert names == ["quantize_rows", "screen", "list_masked", "project", "select", "down", "reduce_down"]
    assert part("screen", "certified", work).memory == 3072 * 768 + 3 * 4 * 3072
    assert part("screen", "certified", replace(work, rows=100)).operations == 2 * 112 * 768 * 3072  # tiles of 16 rows
    assert part("project", "certified", work).memory == pytest.approx(0.045 * 3072 * 768 * 2)
    assert part("down", "certified", work).memory == pytest.approx(0.03 * 3072 * 768 * 2)


def test_launches_are_counted():
    work = Work(T5, 1, 0.03, 0.06)
    counts = {mode: len(kernels(A100, mode, work, tiles=False)) for mode in ("dense", *SPARSE)}
    assert counts == {"dense": 2, "exact": 5, "certified": 7, "predictor": 9, "gate": 8}
    free = seconds(A100, kernels(A100, "certified", work, tiles=False), 0.0)
    assert seconds(A100, kernels(A100, "certified", work, tiles=False)) == pytest.approx(free + 7 * LAUNCH)


def test_rows_share_neurons_by_chance_alone():
    one, two = (part("down", "down", Work(LARGE, rows, 0.5)) for rows in (1, 2))
    assert two.memory / one.memory == pytest.approx(1.5)  # 1 - (1 - 0.5)^2 = 0.75 of the neurons
    assert two.operations / one.operations == pytest.approx(2)


def test_a_tile_takes_what_any_of_its_rows_keeps():
    tile = part("down_tile", "down", Work(LARGE, 16, 0.03), tiles=True)
    union = (1 - 0.97**16) * 16384  # 38.6 %
    assert tile.operations == pytest.approx(3 * 2 * 16 * union * 4096)
    assert tile.unit == "tf32"


def test_one_program_draws_what_one_multiprocessor_can():
    kernel = Kernel("select", 0.0, 64e3, programs=1)
    assert kernel.seconds(A100) == pytest.approx(1000 / 1.41e9)  # 64 bytes a clock
    assert replace(kernel, programs=1000).seconds(A100) == pytest.approx(64e3 / (5120 * 1.41e9))


def test_a_mode_that_no_gpu_runs():
    with pytest.raises(ValueError, match="mode is 'int8', expected one of dense, down, exact, certified"):
        kernels(A100, "int8", Work(T5, 1))


@given(
    mode=st.sampled_from(SPARSE),
    rows=st.integers(1, 5000),
    density=st.floats(0, 1),
    more=st.floats(0, 1),
    tiles=st.booleans(),
)
def test_more_active_neurons_are_never_cheaper_nor_is_a_weaker_device(mode, rows, density, more, tiles):
    low, high = sorted((density, more))
    work = Work(T5, rows)
    cheap, dear = (seconds(A100, kernels(A100, mode, work.at(d, d), tiles=tiles)) for d in (low, high))
    assert cheap <= dear * (1 + 1e-9)
    twice = replace(A100, memory=2 * A100.memory, operations={k: 2 * v for k, v in A100.operations.items()})
    assert seconds(twice, kernels(twice, mode, work.at(low, low), tiles=tiles)) <= cheap * (1 + 1e-9)


@pytest.mark.parametrize("mode", SPARSE)
def test_crossovers_lie_where_the_times_are_equal(mode):
    work = Work(LARGE, 8)
    limit = density_limit(A100, mode, work)
    assert times_as_fast(A100, mode, work, 0.999 * limit) > 1 >= times_as_fast(A100, mode, work, 1.001 * limit)
    rows = row_limit(A100, mode, work, 0.03)
    at = [times_as_fast(A100, mode, replace(work, rows=count), 0.03) for count in (rows, rows + 1)]
    assert at[0] > 1 >= at[1]


def test_a_launch_that_costs_nothing_lets_more_win():
    limits = [row_limit(H100, "certified", Work(LARGE, 1), 0.03, launch=launch) for launch in (0.0, LAUNCH)]
    assert limits[0] > limits[1]
    assert row_limit(
        replace(A100, operations=dict.fromkeys(A100.operations, 1e30), memory=1.0), "exact", Work(T5, 1), 0
    )


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
def test_what_the_page_concludes(gpu):
    for mode in SPARSE:
        assert row_limit(gpu, mode, Work(T5, 1), 0.03) == 0
        assert 20 <= row_limit(gpu, mode, Work(LARGE, 1), 0.03) < 100 < MOST_ROWS
        assert times_as_fast(gpu, mode, Work(LARGE, 512), 0.03) < 1


def test_the_pages_tables_are_not_stale():
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "python -m lazyneuron.engine.gpu.roofline --page docs/gpu-roofline.md"
    assert updated(page.replace("| A100 |", "| B100 |")) == page


@pytest.mark.parametrize(
    ("reported", "key"), [("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200")]
)
def test_a_driver_s_name_is_known(reported, key):
    assert gpu_reported(f"cuda:0 ({reported})") is GPUS[key]
    assert gpu_reported("NVIDIA GeForce RTX 4090") is None
    assert gpu_reported("NVIDIA H100 PCIe") is None  # another device


def test_costs_are_the_rooflines():
    costs = roofline_costs("cuda:a100")
    assert not costs.measured
    dense = seconds(A100, kernels(A100, "dense", Work(T5, 64, weights="float32")))
    work = cost.Work(768, 3072, 768, 64, 0.03)
    assert costs.seconds_per_row("dense", work) == pytest.approx(dense / 64, rel=1e-3)
    ours = seconds(A100, kernels(A100, "certified", Work(T5, 64, 0.03, 0.045, "float32")))
    assert costs.seconds_per_row("certified", work) == pytest.approx(ours / 64, rel=1e-3)
    assert costs.seconds_per_row("gate", work, gated=True) > 0
    with pytest.raises(ConfigurationError, match="the roofline of NVIDIA A100 80 GB SXM has no mode int8"):
        costs.seconds_per_row("int8", work)


def test_a_name_stands_for_costs(monkeypatch, tmp_path):
    origin = "Costs not measured: the least times that the data sheet of NVIDIA H100 SXM allows"
    named = load_costs(Path("cuda:h100"))
    assert named.origin.startswith(origin)
    assert not named.own
    monkeypatch.setenv(COSTS_VARIABLE, "cuda:H100")
    assert load_costs().origin.startswith(origin)
    main(["--gpu", "h100", "--output", str(tmp_path / "costs.json")])
    read = load_costs(tmp_path / "costs.json")
    assert read.model == named.model
    assert f"Costs from {tmp_path / 'costs.json'}, not measured: " in read.origin


def test_a_name_that_is_not_known():
    message = (
        "cuda:0: no such GPU among those whose data sheet is known; expected one of cuda:a100, cuda:h100, cuda:h200"
    )
    with pytest.raises(ConfigurationError, match=message):
        load_costs(Path("cuda:0"))


@pytest.mark.parametrize("arguments", [[], ["--gpu", "a100"], ["--output", "x"], ["--gpu", "b100", "--output", "x"]])
def test_what_the_command_needs(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
