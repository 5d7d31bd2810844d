"""`lazyneuron token`."""

from pathlib import Path
from typing import Literal

import click

__all__ = ["command"]

_BYTES = 32


@click.command("token")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["client", "admin"]),
    default="client",
    show_default=True,
    help="What its holder may do; an admin may also list, load and unload models.",
)
@click.option("--file", type=click.Path(path_type=Path), help="Add the line to this tokens' file (auth.tokens_file).")
def command(name: str, role: Literal["client", "admin"], file: Path | None) -> None:
    """Make a token for NAME: the token on standard output, its line on standard error or in --file.

    The line has the token's hash alone: the token cannot be had from the server's file. Give it to its holder.
    """
    import secrets

    from lazyneuron.server.auth import add_line, line_for

    token = secrets.token_urlsafe(_BYTES)
    line = line_for(name, role, token)
    if file is None:
        click.echo(line, err=True)
    else:
        add_line(file, line)
    click.echo(token)
