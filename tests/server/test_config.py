"""Settings: a file, flags over it, and what is refused by name."""

from pathlib import Path

import pytest

from lazyneuron.engine.errors import ConfigurationError
from lazyneuron.server.config import ServerConfig, load_config


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
        ("grpcport = 1", "grpcport: unknown key; expected one of batching, grace_seconds, grpc_port"),
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


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ServerConfig().grpc_port = 1  # type: ignore[misc]
