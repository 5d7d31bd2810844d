"""Settings: a file, flags over it, and what is refused by name."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.config import ServerConfig, load_config, load_settings
from lazyneuron.server.config_print import schema
from lazyneuron.server.layers import fields


def _file(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_design_s() -> None:
    config = load_config(None, {})
    assert (config.host, config.grpc_port, config.http_port) == ("127.0.0.1", 8001, 8002)


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "grpc_port = 7000\nhttp_port = 7001\n[batching]\nmax_tokens = 5\n")
    config = load_config(file, {"grpc_port": 9000, "http_port": None})
    assert (config.grpc_port, config.http_port, config.batching.max_tokens) == (9000, 7001, 5)
    assert config.batching.limits.max_tokens == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grpcport = 1",
            "grpcport: unknown key; expected one of auth, auto_tune, batching, budget, clients",
        ),
        ("[batching]\nwindow = 1", "batching.window: unknown key; expected one of concurrency"),
        ("[queue]\nmax_tokens = 0", "queue.max_tokens: Input should be greater than or equal to 1 .got 0"),
        ("grpc_port = '8001'", "grpc_port: Input should be a valid integer"),
        ("batching = 3", "batching: .* .got 3"),
        ("grpc_port = ", "not readable as TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"server.toml: {message}"):
        load_config(_file(tmp_path, text), {})


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file; --config takes a TOML file"):
        load_config(tmp_path / "none.toml", {})


def _environment(**variables: str) -> dict[str, str]:
    return {f"LAZYNEURON_{name}": value for name, value in variables.items()}


def test_variables_of_other_commands_are_no_settings() -> None:
    others = {"LAZYNEURON_CACHE": "/cache", "LAZYNEURON_COSTS": "costs.json", "LAZYNEURON_ISA": "avx2"}
    assert load_settings(None, {}, environment=others).config == ServerConfig()


def test_the_environment_is_over_the_file_and_under_the_flags(tmp_path: Path) -> None:
    file = _file(tmp_path, "grpc_port = 1\nhttp_port = 2\n[queue]\nmax_tokens = 3\nmax_requests = 4\n")
    environment = _environment(GRPC_PORT="10", HTTP_PORT="20", QUEUE__MAX_TOKENS="30", HOST="")
    settings = load_settings(file, {"grpc_port": 100}, assignments=("queue.max_requests=400",), environment=environment)
    config, sources = settings.config, settings.sources
    assert (config.grpc_port, config.http_port, config.host) == (100, 20, "127.0.0.1")
    assert (config.queue.max_tokens, config.queue.max_requests) == (30, 400)
    assert sources["grpc_port"] == "--grpc-port"
    assert sources["http_port"] == "LAZYNEURON_HTTP_PORT"
    assert sources["queue.max_tokens"] == "LAZYNEURON_QUEUE__MAX_TOKENS"
    assert sources["queue.max_requests"] == "--set queue.max_requests"
    assert sources["host"] == sources["batching.max_tokens"] == "default"
    assert load_settings(file, {}, environment={}).sources["queue.max_tokens"] == str(file)


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("REFLECTION", "off", False),
        ("REFLECTION", "1", True),
        ("THREADS", "3", 3),
        ("GRACE_SECONDS", "1.5", 1.5),
        ("TLS__RELOAD_SECONDS", "2", 2.0),
        ("AUTH__ADMIN_CERTIFICATES", "ops, root", ("ops", "root")),
        ("AUTH__ADMIN_CERTIFICATES", '["ops, root"]', ("ops, root",)),
        ("AUTH__TOKENS_FILE", "/etc/tokens", Path("/etc/tokens")),
        ("LOG__FORMAT", "json", "json"),
        ("BUDGET__CLASSES", '{"exact": 1, "low": 0.25}', {"exact": 1.0, "low": 0.25}),
    ],
)
def test_text_becomes_a_value_of_the_setting_s_type(variable: str, text: str, value: object) -> None:
    found: object = load_settings(None, {}, environment=_environment(**{variable: text})).config
    for part in variable.lower().split("__"):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("GRPCPORT", "1", "LAZYNEURON_GRPCPORT: grpcport: unknown key; expected one of auth, auto_tune, batching"),
        ("QUEUE__TOKENS", "1", "LAZYNEURON_QUEUE__TOKENS: queue.tokens: unknown key; expected one of"),
        ("QUEUE", "1", "LAZYNEURON_QUEUE: queue: unknown key"),
        ("GRPC_PORT", "x", "LAZYNEURON_GRPC_PORT: grpc_port: Input should be a valid integer"),
        (
            "GRPC_PORT",
            "70000",
            "LAZYNEURON_GRPC_PORT: grpc_port: Input should be less than or equal to 65535 .got 70000.",
        ),
        ("LOG__FORMAT", "xml", "LAZYNEURON_LOG__FORMAT: log.format: Input should be 'text' or 'json' .got 'xml'."),
        ("BUDGET__CLASSES", "low=0.25", "LAZYNEURON_BUDGET__CLASSES: budget.classes: Invalid JSON"),
        ("THREADS", "100000", "LAZYNEURON_THREADS: threads: Input should be less than or equal to 1024"),
        ("GRACE_SECONDS", "nan", "LAZYNEURON_GRACE_SECONDS: grace_seconds: Input should be"),
        ("TLS__MAX_CONNECTION_SECONDS", "1e9", "LAZYNEURON_TLS__MAX_CONNECTION_SECONDS: .* or equal to 2000000"),
        ("AUTH__ADMIN_CERTIFICATES", "[1", "LAZYNEURON_AUTH__ADMIN_CERTIFICATES: .* expected a list"),
        ("TLS__KEY", "k", "LAZYNEURON_TLS__KEY: tls.key is set and tls.certificate is not; expected both or neither"),
        ("TLS__CLIENT_CA", "k", "LAZYNEURON_TLS__CLIENT_CA: tls.client_ca is set without tls.certificate and tls.key"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{says}") as caught:
        load_settings(None, {}, environment=_environment(**{variable: text}))
    assert "\n" not in str(caught.value)


def test_a_wrong_table_in_the_file_is_named_though_a_variable_goes_into_it(tmp_path: Path) -> None:
    environment = _environment(BATCHING__MAX_TOKENS="5")
    with pytest.raises(ConfigurationError, match=r"server.toml: batching: .* .got 3"):
        load_settings(_file(tmp_path, "batching = 3"), {}, environment=environment)


def test_what_kubernetes_sets_for_a_service_of_our_name_is_left_alone() -> None:
    environment = _environment(
        SERVICE_HOST="10.0.0.1",
        SERVICE_PORT="8001",
        SERVICE_PORT_GRPC="8001",
        PORT="tcp://10.0.0.1:8001",
        PORT_8001_TCP="tcp://10.0.0.1:8001",
        PORT_8001_TCP_ADDR="10.0.0.1",
        HTTP_PORT="tcp://10.0.0.1:8002",
        ISA="avx2",
    )
    assert load_settings(None, {}, environment=environment).config == ServerConfig()


@pytest.mark.parametrize("assignment", ["batching.max_tokens", "nothing=1", "=1"])
def test_a_wrong_assignment_is_named(assignment: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--set"):
        load_settings(None, {}, assignments=(assignment,), environment={})


def test_the_documented_settings_are_the_settings(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Every key stands in docs/serving.md with its default, and no other does."""
    text = (request.config.rootpath / "docs" / "serving.md").read_text().split("```toml\n")[1].split("```")[0]
    # A key without a default is a comment with an example.
    uncommented = re.sub(r"(?m)^# (?=\w+ = )", "", text)
    documented = {name for name, _ in _flat(tomllib.loads(uncommented))}
    assert documented == set(fields(ServerConfig))
    assert load_settings(_file(tmp_path, text), {}, environment={}).config == ServerConfig()


def _flat(table: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and f"{above}{name}" not in fields(ServerConfig):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def test_the_published_schema_is_the_settings(request: pytest.FixtureRequest) -> None:
    published = json.loads((request.config.rootpath / "docs" / "serve.schema.json").read_text())
    again = "write it anew: python -m lazyneuron.server.config_print > docs/serve.schema.json"
    assert published == json.loads(json.dumps(schema())), again
    jsonschema.validate({"grpc_port": 1, "log": {"format": "json"}, "tls": {"key": "k"}}, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"log": {"format": "xml"}}, published)


def test_every_setting_is_described() -> None:
    assert [name for name, field in fields(ServerConfig).items() if not field.description] == []


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServerConfig().grpc_port = 1  # type: ignore[misc]
