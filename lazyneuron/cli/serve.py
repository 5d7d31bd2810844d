"""`lazyneuron serve`."""

from pathlib import Path

import click

__all__ = ["command"]


@click.command("serve")
@click.argument("repository", type=click.Path(path_type=Path))
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port of gRPC; 0 takes a free one.  [default: 8001]")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65535),
    help="Port of metrics and health; 0 takes a free one.  [default: 8002]",
)
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with these and further settings.")
def command(
    repository: Path, host: str | None, grpc_port: int | None, http_port: int | None, config: Path | None
) -> None:
    """Serve REPOSITORY: a folder of models, or one model.

    Stops on SIGTERM or Ctrl-C, after the requests that it has taken.
    """
    import asyncio
    import logging

    from lazyneuron.server.app import App, serve
    from lazyneuron.server.config import load_config

    settings = load_config(config, {"host": host, "grpc_port": grpc_port, "http_port": http_port})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its start and stop are told by our own lines

    def announce(app: App) -> None:
        click.echo(f"ready: gRPC on {app.grpc_address}, metrics and health on http://{app.http_address}/")

    asyncio.run(serve(repository, settings, announce))
