"""The options of every subcommand that calls a server: TLS and token."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lazyneuron.engine.errors import ConfigurationError

if TYPE_CHECKING:
    from lazyneuron.credentials import Credentials

__all__ = ["connection_options", "credentials_from"]

_Command = TypeVar("_Command", bound=Callable[..., Any])


def connection_options(command: _Command) -> _Command:
    """Add the options; the command takes them as `tls`, `ca`, `cert`, `key` and `token_file`."""
    file = click.Path(path_type=Path)
    for option in reversed(
        (
            click.option("--tls", is_flag=True, help="Use TLS, and trust the usual authorities."),
            click.option("--ca", type=file, help="Use TLS, and trust the authorities in this PEM file."),
            click.option("--cert", type=file, help="The client's certificate, a PEM file, for mutual TLS."),
            click.option("--key", type=file, help="That certificate's private key, a PEM file."),
            click.option("--token-file", type=file, help="A file with the token that the server knows."),
        )
    ):
        command = option(command)
    return command


def credentials_from(
    *, tls: bool, ca: Path | None, cert: Path | None, key: Path | None, token_file: Path | None
) -> "Credentials | None":
    """Return what the options say; None where they say nothing.

    Raises
    ------
    ConfigurationError
        If a file cannot be read, or of `--cert` and `--key` one is missing.
    """
    if not (tls or ca or cert or key or token_file):
        return None
    from lazyneuron.credentials import Credentials

    if (cert is None) != (key is None):
        raise click.UsageError("of --cert and --key one is given; expected both or neither")
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ConfigurationError(
                f"--token-file: {token_file} cannot be read ({reason}); expected a token"
            ) from None
    return Credentials(tls=tls, ca=ca, certificate=cert, key=key, token=token)
