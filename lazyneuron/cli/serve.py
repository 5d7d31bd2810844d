"""`lazyneuron serve`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lazyneuron.server.app import App

__all__ = ["command"]


@click.command("serve")
@click.argument("repository", type=click.Path(path_type=Path), required=False)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port of gRPC; 0 takes a free one.  [default: 8001]")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of HTTP: metrics, health; 0 takes a free one.  [default: 8002]",
)
@click.option(
    "--device",
    help="Where models run: auto, cpu, or GPUs as cuda:0 or cuda:0,cuda:1.  [default: auto]",
)
@click.option(
    "--auto-tune",
    is_flag=True,
    default=None,
    help="Measure how each model is best run on this machine, unless that was done before.",
)
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with these and further settings.")
@click.option("--set", "assignments", metavar="NAME=VALUE", multiple=True, help="Any setting, as log.format=json.")
@click.option("--print-config", is_flag=True, help="Print the settings as TOML, and where each comes from, and end.")
def command(
    repository: Path | None,
    host: str | None,
    grpc_port: int | None,
    http_port: int | None,
    device: str | None,
    auto_tune: bool | None,
    config: Path | None,
    assignments: tuple[str, ...],
    *,
    print_config: bool,
) -> None:
    """Serve REPOSITORY: a folder of models, or one model.

    Settings come from the file of --config, from variables like LAZYNEURON_BATCHING__MAX_TOKENS, and from flags, each
    over the last. SIGHUP reads certificates, tokens and the log's level anew. Stops on SIGTERM or Ctrl-C, after the
    requests that it has taken.
    """
    if repository is None and not print_config:
        raise click.UsageError("Missing argument 'REPOSITORY'.")
    import os

    # gRPC's own lines go to standard error past our log, at the rate of whoever fails handshakes; a pipe that nobody
    # reads would then stop its threads.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from lazyneuron.server.config import Settings, load_settings

    def load() -> Settings:
        flags = {
            "host": host,
            "grpc_port": grpc_port,
            "http_port": http_port,
            "device": device,
            "auto_tune": auto_tune,
        }
        return load_settings(config, flags, assignments=assignments)

    settings = load()
    if print_config:
        from lazyneuron.server.config_print import to_toml

        click.echo(to_toml(settings), nl=False)
        return
    assert repository is not None
    import asyncio
    import sys

    from lazyneuron.server.app import serve
    from lazyneuron.server.logs import LogOutput

    # So long a worker and the event loop keep each other waiting for the interpreter's lock: with Python's default of
    # 5 ms a server that shares its cores with other programs answers a quarter fewer small requests.
    sys.setswitchinterval(0.001)
    with LogOutput(settings.config.log) as log:
        asyncio.run(serve(repository, settings.config, _announce, log=log, reread=lambda: load().config))


def _announce(app: "App") -> None:
    import os
    import sys

    try:
        click.echo(f"ready: gRPC on {app.grpc_address}, metrics and health on {app.http_url}")
    except OSError:  # a full disk, a reader that has gone: the server has work to do all the same
        # What is buffered would fail again when the interpreter ends, and spoil the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
