"""What `lazyneuron top` draws, at any size."""

import io

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lazyneuron.cli import cli
from lazyneuron.cli.top_figures import Block, Figures, ModelFigures, Saved
from lazyneuron.cli.top_view import TopView


def model(blocks: list[Block], name: str = "t5") -> ModelFigures:
    return ModelFigures(
        model=name,
        version="3",
        task="text2text",
        mode="certified",
        loaded_seconds=7321.0,
        memory_bytes=9e8,
        requests_per_second=123.4,
        tokens_per_second=3456.0,
        errors_per_second={"RESOURCE_EXHAUSTED": 2.2},
        refused_per_second={"queue_full": 2.2},
        latency_p50_seconds=0.0123,
        latency_p99_seconds=None,
        queue_requests=34,
        queue_tokens=12345,
        queue_limit_tokens=131072,
        running_batches=1,
        concurrency=1,
        budget=0.75,
        lowered_per_second=12,
        batches_per_second=10,
        batch_requests=12.3,
        batch_tokens=2345.6,
        batch_fill=0.286,
        padding=0.04,
        saved=Saved(0.784, 3.2e12, 0.123),
        saved_since_start=Saved(0.5, 8.2e15, -3.0),
        blocks=blocks,
    )


def drawn(models: list[ModelFigures], width: int, height: int, *, fitted: bool = True, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace")
    console = Console(file=file, width=width, height=height, highlight=False)
    console.print(
        TopView("http://box:8002/metrics", Figures(2.0, False, 60.0, {"version": "1"}, 0.0, models), fitted=fitted)
    )
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


BLOCKS = [Block(f"encoder.block.{i}.mlp", 0.03 + i / 100, 0.03, 0.05, 0.1 * (i % 3)) for i in range(12)]


@given(width=st.integers(40, 250), height=st.integers(1, 80), models=st.integers(0, 3), names=st.integers(1, 60))
def test_no_line_is_wider_than_the_terminal(width: int, height: int, models: int, names: int) -> None:
    blocks = [Block(f"{'n' * names}{i}", block.density, 0.1, 0.05, 0.2) for i, block in enumerate(BLOCKS)]
    for fitted in (True, False):
        lines = drawn([model(blocks)] * models, width, height, fitted=fitted).splitlines()
        assert max(map(len, lines)) <= width
        assert not [line for line in lines if "█" in line and "%" not in line]  # the figure, if not the bar


def test_bars_are_as_long_as_densities_and_cross_the_exported_one() -> None:
    blocks = [
        Block("half", 0.05, 0.05, 0.1, 1.0),
        Block("twice", 0.2, 0.2, 0.1, 1.0),
        Block("idle", None, None, 0.1, None),
    ]
    half, twice, idle = drawn([model(blocks)], 120, 60).splitlines()[-3:]
    assert half.split()[1] == "█" * 10 + "·" * 10 + "│" + "·" * 19
    assert twice.split()[1] == "█" * 20 + "│" + "█" * 19
    assert idle.split()[1] == "·" * 20 + "│" + "·" * 19
    assert ("5.00 % ×0.50 ! exported 10.00 %" in half, "×2.00 !" in twice, "– " in idle) == (True, True, True)
    assert "candidates" not in half


def test_blocks_without_room_are_left_out_those_nearest_to_the_export_first() -> None:
    text = drawn([model(BLOCKS)], 120, 18)
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("  encoder.")]
    assert shown == [f"encoder.block.{i}" for i in (6, 7, 8, 9, 10, 11)]
    assert "6 of 12 blocks" in text
    assert text.count("encoder.block.") == 6
    assert drawn([model(BLOCKS)], 120, 18, fitted=False).count("encoder.block.") == 12


def test_a_terminal_without_unicode_gets_plain_signs() -> None:
    text = drawn([model(BLOCKS)], 120, 60, encoding="ascii")
    assert "#" in text
    assert "|" in text


@pytest.mark.parametrize(("seconds", "words"), [(0.123, "about 123 ms saved"), (-3.0, "about 3 s lost")])
def test_time_lost_is_not_called_saved(seconds: float, words: str) -> None:
    assert words in drawn([model([])], 120, 60)


def test_names_are_shown_as_they_are() -> None:
    text = drawn([model([Block("layers[bold].mlp[relu]", 0.1, 0.1, 0.1, 1.0)])], 120, 60)
    assert "  layers[bold].mlp[relu] " in text


@pytest.mark.parametrize("name", ["top", "predict"])
def test_help_shows_commands_a_line_each(name: str) -> None:
    text = CliRunner().invoke(cli, [name, "--help"]).output
    assert "\\b" not in text
    assert len([line for line in text.splitlines() if line.startswith(f"  lazyneuron {name} ")]) >= 1
