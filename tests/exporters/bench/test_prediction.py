import numpy as np
import pytest

from lazyneuron.engine.cost_files import COSTS_VARIABLE, write_costs
from lazyneuron.engine.machine import this_machine
from lazyneuron.engine.model import Model
from lazyneuron.exporters.bench.artifact import bench_artifact
from lazyneuron.exporters.bench.prediction import predicted_saving
from lazyneuron.exporters.subtraction import subtraction_share
from tests.support.artifacts import Size, write_vector_model
from tests.support.costs import linear_costs


def test_the_saving_is_of_what_the_blocks_did(tmp_path):
    model = Model.load(write_vector_model(tmp_path, size=Size(d_model=16, d_ff=64, blocks=2)))
    x = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32)
    sparsity = model.predict({"x": x}).sparsity
    unit = 16 * 64 * 1e-9
    expected = sum(9 * (2 - (1.01 + block.density)) * unit for block in sparsity.blocks)
    assert predicted_saving(linear_costs(), model.manifest, sparsity) == pytest.approx(expected)


def test_a_centre_costs_its_subtraction(tmp_path):
    model = Model.load(write_vector_model(tmp_path, size=Size(d_model=16, d_ff=64, blocks=1)))
    sparsity = model.predict({"x": np.ones((9, 16), np.float32)}).sparsity
    plan = model.manifest.blocks[0]
    centred = model.manifest.model_copy(update={"blocks": (plan.model_copy(update={"centred": True}),)})
    whole, less = (predicted_saving(linear_costs(), manifest, sparsity) for manifest in (model.manifest, centred))
    share = subtraction_share(plan.d_model, plan.d_ff, plan.d_out, 9, 1)
    assert share > 0
    assert whole - less == pytest.approx(share * 9 * 2 * 16 * 64 * 1e-9)


def test_only_this_machines_costs_on_as_many_threads_predict(tmp_path, monkeypatch):
    folder = write_vector_model(tmp_path)
    monkeypatch.setenv(COSTS_VARIABLE, str(tmp_path / "costs.json"))

    def predicted(threads, against=("dense",)):
        (case,) = bench_artifact(folder, batches=(4,), threads=threads, against=against, seconds=0).cases
        return case

    write_costs(linear_costs(machine=this_machine(), unit=1e-15), tmp_path / "costs.json")
    case = predicted(1)
    assert case.predicted == pytest.approx(case.seconds["dense"].median, rel=1e-3)
    assert predicted(2).predicted is None
    assert predicted(1, against=("int8",)).predicted is None
    write_costs(linear_costs(), tmp_path / "costs.json")
    assert predicted(1).predicted is None
