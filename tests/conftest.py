"""Shared by all tests."""

import os

import hypothesis
import pytest

from lazyneuron.engine.cost_files import COSTS_VARIABLE
from tests.support.costs import write_linear_costs

# A failing example is printed with the seed that gives it again; a slow machine is no failure.
hypothesis.settings.register_profile("lazyneuron", deadline=None, print_blob=True)
hypothesis.settings.load_profile("lazyneuron")

# Each test process has one core: torch's threads would spin while they wait for each other, and slow both down.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing may come from a model hub in a test.
os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_itemcollected(item):
    """Keep those that share a module's fixture in one process: otherwise each process makes it for itself."""
    definitions = item._fixtureinfo.name2fixturedefs
    shared = [name for name, found in definitions.items() if found[-1].scope in {"module", "class"}]
    if shared:
        indices = item.callspec.indices if hasattr(item, "callspec") else {}
        which = [f"{name}{indices[name]}" for name in shared if name in indices]
        item.add_marker(pytest.mark.xdist_group("-".join([item.path.stem, *which])))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """One for all processes of a run: torch exports each checkpoint once."""
    base = tmp_path_factory.getbasetemp()
    os.environ["LAZYNEURON_CACHE"] = str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")


@pytest.fixture(scope="session", autouse=True)
def _fixed_costs(tmp_path_factory):
    """What a plan chooses must not depend on the machine that tests run on: here the certified screen never pays."""
    os.environ[COSTS_VARIABLE] = str(write_linear_costs(tmp_path_factory.mktemp("costs") / "costs.json", screen=9.0))
