"""The command line. One file a subcommand; each holds a click command named `command`."""

import importlib
import sys
import traceback

import click

from lazyneuron import __version__
from lazyneuron.engine.errors import LazyneuronError, one_line

__all__ = ["cli", "main"]

_SUMMARIES = {
    "inspect": "Measure how sparse a checkpoint is, before exporting anything.",
    "export": "Turn a checkpoint into a sparse artifact.",
    "evaluate": "Compare an artifact with its dense graph on labelled data: use it or not?",
    "finetune": "Train a checkpoint to be sparse, by distillation from itself.",
    "serve": "Serve a model or a folder of models over gRPC.",
    "predict": "Send requests to a running server: one, or a file of them.",
    "top": "Watch a running server in the terminal.",
    "sign": "Sign a model, so that servers which trust the key take it.",
    "token": "Make a token that a server knows its caller by.",
    "bench": "Measure speed on this machine: of an artifact, or of the operators.",
    "selfcheck": "Check the operators' kernels on this machine's CPU or GPU.",
}

_DEBUG_HELP = "Show a traceback when something fails."


class _LazyGroup(click.Group):
    """Imports a subcommand when it is run, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _SUMMARIES:
            return None
        command = importlib.import_module(f"lazyneuron.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        if not any(param.name == "debug" for param in command.params):
            command.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help=_DEBUG_HELP))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lazyneuron")
@click.option("--debug", is_flag=True, help=_DEBUG_HELP)
@click.pass_context
def cli(ctx: click.Context, *, debug: bool) -> None:
    """Serve trained Transformers for less compute, by skipping the neurons that do not fire."""
    ctx.obj = {"debug": debug}


def main(args: list[str] | None = None) -> None:
    """Run the command line; exit 0 when done, 1 when the work failed, 2 on wrong usage."""
    debug = "--debug" in (sys.argv[1:] if args is None else args)
    try:
        cli.main(args, prog_name="lazyneuron", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except (LazyneuronError, click.ClickException, OSError) as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {one_line(error)}", err=True)
        sys.exit(1)
