import numpy as np
import pytest

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.exporters.blocks import find_blocks
from lazyneuron.exporters.calibration import BlockCounts
from lazyneuron.exporters.plots import draw_block, save_plots
from lazyneuron.exporters.reports import BlockSparsity
from lazyneuron.exporters.sources import read_checkpoint
from tests.exporters import graphs


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Two reports of a block: over some rows, and over none."""
    path = graphs.save(tmp_path_factory.mktemp("plots") / "m.onnx", graphs.plain_nodes(), graphs.weights())
    (block,) = find_blocks(read_checkpoint(str(path)).model).blocks.values()
    seen = BlockCounts.empty(graphs.D, graphs.F)
    rows = np.array([3, 9, 2, 8])
    seen.add(rows, np.arange(graphs.F))
    seen.place(rows, np.array([3, 1]))
    return [BlockSparsity.of(block, seen, 0.4), BlockSparsity.of(block, BlockCounts.empty(graphs.D, graphs.F))]


def test_a_drawing_is_the_same_each_time(blocks):
    first = draw_block(blocks[0])
    assert first.startswith(b"<?xml")
    assert first == draw_block(blocks[0])
    assert first != draw_block(blocks[1])


@pytest.mark.parametrize(("name", "begins"), [("p.png", b"\x89PNG"), ("p.SVG", b"<?xml"), ("p.pdf", b"%PDF")])
def test_the_name_says_the_format(blocks, tmp_path, name, begins):
    save_plots(tmp_path / name, blocks)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_drawn_is_said(blocks, tmp_path):
    with pytest.raises(ConfigurationError, match=r"p\.gif: it ends in '\.gif'; expected a picture's name, in one of"):
        save_plots(tmp_path / "p.gif", blocks)
    with pytest.raises(ConfigurationError, match="0 blocks to draw; expected 1 to"):
        save_plots(tmp_path / "p.png", [])
    with pytest.raises(ConfigurationError, match="cannot write the picture: No such file"):
        save_plots(tmp_path / "absent" / "p.png", blocks)
