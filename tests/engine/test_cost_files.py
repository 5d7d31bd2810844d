import json

import pytest

from lazyneuron.engine.cost_files import (
    COSTS_VARIABLE,
    costs_path,
    load_costs,
    read_costs,
    shipped_costs,
    write_costs,
)
from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.engine.machine import this_machine
from tests.support.costs import MACHINE, linear_costs


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv(COSTS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lazyneuron" / "costs.json"


def test_what_is_written_is_read(cache):
    costs = linear_costs()
    write_costs(costs, cache)
    assert read_costs(cache) == costs
    assert list(cache.parent.iterdir()) == [cache]


def test_where_the_file_is(cache, tmp_path, monkeypatch):
    assert costs_path() == cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert costs_path() == tmp_path / "home" / ".cache" / "lazyneuron" / "costs.json"
    monkeypatch.setenv(COSTS_VARIABLE, "mine.json")
    assert str(costs_path()) == "mine.json"
    assert costs_path(cache) == cache


def test_this_machines_costs_are_taken(cache):
    write_costs(linear_costs(machine=this_machine()), cache)
    costs = load_costs()
    assert costs.own
    assert costs.origin == f"Costs measured on this machine, on one thread ({cache})."


@pytest.mark.parametrize("field", ["cpu", "instruction_set", "onnxruntime", "lazyneuron"])
def test_another_machines_costs_are_not_taken_silently(cache, field):
    write_costs(linear_costs(machine=this_machine().model_copy(update={field: "other"})), cache)
    costs = load_costs()
    assert not costs.own
    assert costs.model == read_costs(shipped_costs("avx512vnni")) or costs.model == read_costs(shipped_costs("avx2"))
    assert f"{field.replace('_', ' ')} 'other' instead of " in costs.origin
    assert "`lazyneuron bench --operators`" in costs.origin


def test_a_named_file_is_taken_and_what_it_is_not_is_said(tmp_path, monkeypatch):
    write_costs(linear_costs(), tmp_path / "mine.json")
    monkeypatch.setenv(COSTS_VARIABLE, str(tmp_path / "mine.json"))
    for costs in (load_costs(), load_costs(tmp_path / "mine.json")):
        assert costs.model.machine == MACHINE
        assert not costs.own
        assert "not of this machine: cpu 'none' instead of" in costs.origin


def test_without_a_file_the_shipped_costs_are_taken(cache):
    costs = load_costs()
    assert not costs.own
    assert f"since {cache} is not there" in costs.origin


@pytest.mark.parametrize("name", ["avx512vnni", "avx2"])
def test_the_shipped_costs_can_be_read(name):
    costs = read_costs(shipped_costs(name))
    assert costs.machine.instruction_set == name
    kinds = {(c.mode, c.weights) for c in costs.curves}
    assert {(m, w) for m in ("exact", "certified", "predictor", "gate") for w in ("float32", "int8")} <= kinds


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not readable as JSON"),
        (b"[]", "format_version is None; this lazyneuron reads 1"),
        (b'{"format_version": 2}', "format_version is 2; this lazyneuron reads 1"),
        (b'{"format_version": 1}', "machine: Field required"),
    ],
)
def test_a_damaged_file_is_named(cache, content, message):
    cache.parent.mkdir()
    cache.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_costs()
    assert str(cache) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_number_is_named(cache):
    write_costs(linear_costs(), cache)
    document = json.loads(cache.read_text())
    document["curves"][0]["rows"] = 0
    cache.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=r"curves\.0\.rows: .*greater than or equal to 1 \(got 0\)"):
        load_costs()


def test_a_missing_named_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"absent\.json: no such file; measure this machine"):
        load_costs(tmp_path / "absent.json")


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigurationError, match="cannot write the costs"):
        write_costs(linear_costs(), tmp_path / "file" / "costs.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write the costs: Is a directory"):
        write_costs(linear_costs(), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
