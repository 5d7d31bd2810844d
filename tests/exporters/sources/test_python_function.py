import textwrap

import numpy as np
import pytest
import torch

import lazyneuron
from lazyneuron.engine.errors import CheckpointError
from lazyneuron.exporters.sources import read_checkpoint
from lazyneuron.exporters.sources.probe import free_axes
from tests.exporters.graphs import assert_close

SOURCE = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down = torch.nn.Linear(8, 24), torch.nn.Linear(24, 8)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, states, other, row_mask, other_mask):
            scores = states @ other.transpose(1, 2)
            scores = scores.masked_fill(other_mask[:, None, :] == 0, -1e9)
            mixed = states + scores.softmax(-1) @ other
            y = self.down(self.drop(torch.relu(self.up(mixed))))
            return {"rows": y, "first": y[:, 0] * row_mask[:, :1]}

    def net():
        ones = torch.ones
        return Net(), {
            "states": torch.randn(2, 5, 8), "other": torch.randn(2, 7, 8),
            "row_mask": ones(2, 5), "other_mask": ones(2, 7),
        }

    def single():
        model, examples = net()
        return model, {name: tensor[:1] for name, tensor in examples.items()}

    def nothing():
        pass

    def broken():
        raise RuntimeError("no weights\\nhere")

    def no_tensors():
        return Net(), {"states": [1, 2]}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("function") / "nets.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


@pytest.fixture(scope="module")
def report(source):
    return lazyneuron.export(f"{source}:net", source.parent / "models" / "net")


def test_lengths_that_must_agree_share_a_name(report):
    shapes = {spec.name: spec.shape for spec in report.manifest.inputs}
    assert shapes == {
        "states": ("batch", "states_length", 8),
        "other": ("batch", "other_length", 8),
        "row_mask": ("batch", "row_mask_length"),
        "other_mask": ("batch", "other_length"),
    }
    assert [o.name for o in report.manifest.outputs] == ["rows", "first"]
    assert report.manifest.blocks[0].rows == ("batch", "states_length")


def test_agrees_with_torch_at_other_lengths(source, report):
    model, _ = __import__("runpy").run_path(str(source))["net"]()
    rng = np.random.default_rng(0)
    inputs = {
        "states": rng.standard_normal((3, 11, 8)).astype(np.float32),
        "other": rng.standard_normal((3, 2, 8)).astype(np.float32),
        "row_mask": np.ones((3, 11), np.float32),
        "other_mask": np.ones((3, 2), np.float32),
    }
    with torch.no_grad():
        expected = model.eval()(**{k: torch.from_numpy(v) for k, v in inputs.items()})
    actual = lazyneuron.load(report.path).predict(inputs).outputs
    for name, tensor in expected.items():
        assert_close(actual[name], tensor.numpy(), tolerance=1e-5)


def test_a_batch_of_one_still_gives_a_batch_axis(source):
    assert read_checkpoint(f"{source}:single").inputs[0].shape[0] == "batch"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", r"nets\.py: no function absent in it"),
        ("nothing", r"it returned NoneType; expected \(torch\.nn\.Module"),
        ("broken", r"it failed: RuntimeError: no weights here"),
        ("no_tensors", r"example input states is not a tensor"),
    ],
)
def test_wrong_functions(source, function, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(f"{source}:{function}")


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(f"{tmp_path / 'absent.py'}:f")
    with pytest.raises(CheckpointError, match=r"expected FILE\.py:FUNCTION"):
        read_checkpoint(str(tmp_path / "absent.py"))


class Paired(torch.nn.Module):
    def forward(self, a, b, c):
        return (a + b).sum() + c.sum() + torch.nn.functional.linear(a.T, torch.ones(3, 4))


def test_free_axes_are_found_by_trying():
    examples = {"a": torch.ones(4, 6), "b": torch.ones(4, 6), "c": torch.ones(2, 6)}
    assert free_axes(Paired(), examples) == [[("c", 1)], [("a", 1), ("b", 1)]]
