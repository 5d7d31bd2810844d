"""What a request asks for, by number or by class, and what load leaves of it."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lazyneuron.engine.errors import ConfigurationError, InputError
from lazyneuron.protocol import open_inference_pb2 as oip
from lazyneuron.protocol.open_inference_pb2_grpc import GRPCInferenceServiceStub
from lazyneuron.protocol.prediction_pb2_grpc import PredictionServiceStub
from lazyneuron.server.budget import BudgetControl, asked_budget
from lazyneuron.server.config import BudgetConfig, load_config
from tests.server.test_predict import request_for
from tests.support.server import ServerProcess, serving

CONFIG = BudgetConfig(classes={"economy": 0.25, "fixed": 0.5}, exact=["fixed"])
LOWERING = BudgetConfig(lowest=0.5, from_pressure=0.5, to_pressure=0.9, hysteresis=0.2)


def test_classes_stand_for_budgets() -> None:
    assert asked_budget(CONFIG, None, "") == (1.0, False)
    assert asked_budget(CONFIG, 0.3, "") == (0.3, False)
    assert asked_budget(CONFIG, None, "economy") == (0.25, False)
    assert asked_budget(CONFIG, None, "fixed") == (0.5, True)


def test_what_cannot_be_asked_for_is_named() -> None:
    with pytest.raises(InputError, match="quality: got 'best'; expected one of economy, fixed"):
        asked_budget(CONFIG, None, "best")
    with pytest.raises(InputError, match=r"budget: got 0\.5 beside quality 'economy'; expected one of the two"):
        asked_budget(CONFIG, 0.5, "economy")
    with pytest.raises(InputError, match="the server has none"):
        asked_budget(BudgetConfig(classes={}), None, "economy")


def test_by_default_nothing_is_lowered() -> None:
    control = BudgetControl(BudgetConfig())
    assert control.update(1.0) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_it_stays_between_its_bounds(pressures: list[float]) -> None:
    control = BudgetControl(LOWERING)
    for pressure in pressures:
        present = control.update(pressure)
        assert 0.5 <= present <= 1.0
        if pressure >= 0.9:
            assert present == 0.5
        if pressure <= 0.3:
            assert present == 1.0


def test_it_falls_at_once_and_rises_only_when_pressure_has_clearly_fallen() -> None:
    control = BudgetControl(LOWERING)
    assert control.update(0.7) == pytest.approx(0.75)
    assert control.update(0.6) == pytest.approx(0.75)
    assert control.update(0.55) == pytest.approx(0.75)
    assert control.update(0.4) == pytest.approx(0.875)
    assert control.update(0.29) == 1.0
    assert control.update(1.0) == 0.5
    assert control.update(0.75) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exact = ['best']", "budget.exact names 'best', which is not one of budget.classes"),
        ("from_pressure = 0.9", "budget.from_pressure 0.9 is not below budget.to_pressure 0.9"),
        ("lowest = 0.0", "budget.lowest: Input should be greater than 0"),
        ("classes = {economy = 1.5}", "budget.classes.economy: Input should be less than or equal to 1"),
        ("share = 1", "budget.share: unknown key; expected one of classes, exact"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f"[budget]\n{text}\n")
    with pytest.raises(ConfigurationError, match=message):
        load_config(file, {})


@pytest.fixture(scope="module")
def classes(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    settings = "[budget]\nclasses = {economy = 0.1, standard = 1.0}\n[limits]\nmax_rank = 3\nmax_batch = 4\n"
    settings += "max_characters = 40\nmax_length = 20\nmax_tokens = 60\n"
    with serving(repository, tmp_path_factory.mktemp("classes") / "log", settings) as server:
        yield server


def test_a_quality_is_asked_for_and_told(classes: ServerProcess) -> None:
    with grpc.insecure_channel(classes.grpc) as channel:
        predict = PredictionServiceStub(channel).Predict
        assert predict(request_for("text", "lazy neurons")).budget == 1.0
        economy = request_for("text", "lazy neurons")
        economy.quality = "economy"
        low = predict(economy)
        assert low.budget == pytest.approx(0.1)
        economy.ClearField("quality")
        economy.budget = 0.1
        same = predict(economy)
        assert same.sparsity == low.sparsity
        economy.quality = "economy"
        with pytest.raises(grpc.RpcError) as caught:
            predict(economy)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "expected one of the two" in caught.value.details()


def test_the_open_inference_protocol_has_it_as_a_parameter(classes: ServerProcess) -> None:
    request = oip.ModelInferRequest(model_name="vector")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(np.ones((1, 16), np.float32).tobytes())
    with grpc.insecure_channel(classes.grpc) as channel:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        assert infer(request).parameters["budget"].double_param == 1.0
        request.parameters["quality"].string_param = "economy"
        assert infer(request).parameters["budget"].double_param == pytest.approx(0.1)
        request.parameters["quality"].string_param = "none such"
        with pytest.raises(grpc.RpcError, match="quality: got 'none such'; expected one of economy, standard"):
            infer(request)
        request.parameters["quality"].bool_param = True
        with pytest.raises(grpc.RpcError, match=r"parameters\.quality: got bool_param; expected a class's name"):
            infer(request)


@pytest.mark.parametrize(
    ("name", "of", "words"),
    [
        ("text", "x" * 51, r"text: got 51 characters; expected at most 40 .the server's limits.max_characters"),
        ("vector", (1, 1, 4, 4), r"x: got rank 4; expected at most 3 .the server's limits.max_rank"),
        ("vector", (5, 16), r"inputs: got batch 5; expected at most 4 .the server's limits.max_batch"),
        ("sequence", (1, 21, 16), r"inputs: got sequence 21; expected at most 20 .the server's limits.max_length"),
        ("sequence", (4, 20, 16), r"inputs: got 80 tokens; expected at most 60 .the server's limits.max_tokens"),
    ],
)
def test_limits_are_named_in_words(classes: ServerProcess, name: str, of: str | tuple[int, ...], words: str) -> None:
    inputs = of if isinstance(of, str) else {"x": np.ones(of, np.float32)}
    with grpc.insecure_channel(classes.grpc) as channel:
        with pytest.raises(grpc.RpcError, match=words) as caught:
            PredictionServiceStub(channel).Predict(request_for(name, inputs))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
