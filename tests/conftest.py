"""Shared by all tests."""

import os

import hypothesis
import pytest

from lazyneuron.engine.cost_files import COSTS_VARIABLE
from tests.support.costs import write_linear_costs

# A failing example is printed with the seed that gives it again; a slow machine is no failure.
hypothesis.settings.register_profile("lazyneuron", deadline=None, print_blob=True)
hypothesis.settings.load_profile("lazyneuron")

# Nothing may come from a model hub in a test.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _fixed_costs(tmp_path_factory):
    """What a plan chooses must not depend on the machine that tests run on: here the certified screen never pays."""
    os.environ[COSTS_VARIABLE] = str(write_linear_costs(tmp_path_factory.mktemp("costs") / "costs.json", screen=9.0))
