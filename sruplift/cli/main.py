"""The ``sruplift`` command: its assembly, and the one place where errors become exit codes."""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sruplift import __version__
from sruplift.cli.teller import is_drawn_on
from sruplift.errors import SrupliftError, SrupliftWarning
from sruplift.heap import keep_freed_memory

# Of a loop that looks whether the wait is over: some tens of microseconds. Fewer cost time on a
# quiet machine, more on a busy one (benchmarks/results/speed.md has the figures).
SPINS = "10000"
# The commands in the order of the help, and the modules they are in.
COMMANDS = {
    "upscale": "upscale",
    "batch": "batch",
    "eval": "evaluate",
    "compare": "compare",
    "explain": "explain",
    "bench": "bench",
    "train": "train",
    "models": "models",
    "export": "export",
    "weights": "weights",
}


class Commands(TyperGroup):
    """Our commands; `sruplift eval compare` is `sruplift compare`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` name, and what is left of them."""
        return super().resolve_command(ctx, args[1:] if args[:2] == ["eval", "compare"] else args)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"sruplift {__version__}")
        raise typer.Exit


def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Enlarge images with pretrained super-resolution networks; measure and train them."""


def make_app(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line: all commands, or those that ``arguments`` name, which starts sooner."""
    app = typer.Typer(
        name="sruplift",
        cls=Commands,
        help=main.__doc__,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(main)
    first, *_ = [*arguments, ""]
    named = COMMANDS.keys() & arguments[:2] if first in COMMANDS else COMMANDS.keys()
    for name, module in COMMANDS.items():
        if name in named:
            command = importlib.import_module(f"sruplift.cli.{module}")
            if isinstance(getattr(command, "app", None), typer.Typer):
                app.add_typer(command.app, name=name)
            else:
                app.command(name)(command.command)
    return app


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait for others sleep soon; what the user has set stays.

    PyTorch's threads (OpenMP's, in GNU's library) spin while they wait. On a machine that does
    something else too, they take the time from those they wait for (what that costs is in
    benchmarks/results/speed.md). It must be set before PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)


def say_warnings() -> None:
    """Show our own warnings as sentences, without the line of code that Python adds."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, SrupliftWarning):
            typer.echo(f"sruplift: warning: {message}", err=True)
        else:
            plain(message, category, *where, **more)

    warnings.showwarning = show


def run() -> None:
    """The console entry point: exit code 0, 1 (an input failed), 2 (usage), 130 (interrupted)."""
    wait_briefly(os.environ)
    keep_freed_memory()
    say_warnings()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have letters that the terminal's, or a file's, encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    app = make_app(sys.argv[1:])
    if not is_drawn_on(sys.stdout):
        # Typer draws help with Rich, for 0.1 of 0.27 s (benchmarks/results/speed.md).
        app.rich_markup_mode = None
        for group in app.registered_groups:
            if group.typer_instance is not None:
                group.typer_instance.rich_markup_mode = None
    try:
        app()
    except SrupliftError as error:
        if not error.said_elsewhere:
            typer.echo(f"sruplift: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("sruplift: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): not an error worth words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
