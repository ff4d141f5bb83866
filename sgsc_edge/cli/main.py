"""``sgsc-edge``: the command table, and how every command starts and ends.

A command's module is imported when the command is named, so that ``--help`` stays fast. Commands return a
``Result``; this module prints it, or the error, and turns it into the exit code:

0 done · 1 the gate failed · 2 the user's input is wrong · 3 something required was not measured ·
4 device or board · 5 our bug · 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from sgsc_edge.cli.output import CONTEXT, Output, Result, print_error, print_result
from sgsc_edge.errors import InputError, Interrupted, SgscError
from sgsc_edge.hints import closest

PROGRAM = "sgsc-edge"
COMPLETE = "_SGSC_EDGE_COMPLETE"

# name: what it does. Its module is sgsc_edge.cli.<name>, its click command is called `command` there.
COMMANDS = {
    "init": "Make a folder a project: a starter, an example, or for a network of your own.",
    "build": "Compress, lower and certify a project for one or more targets.",
    "lower": "Quantize an ONNX model by samples, lower and certify it, without training.",
    "preserve": "Choose the samples that guard a compression, and show them.",
    "verify": "Certify a build folder again, from its files alone.",
    "report": "Write one self-contained HTML page about a build.",
    "explain": "Say what became of a layer's channels, and which samples break without each.",
    "inspect": "Show ops, widths, shapes, quantization and bytes of a model file.",
    "package": "Write a model as C code, or as an array for TensorFlow Lite Micro.",
    "flash": "Put a build on a board, and certify what the board computes.",
    "targets": "List the targets that models can be built for.",
    "boards": "List the boards that firmware can run on, and what is missing to use them.",
    "runtimes": "List the runtimes that can check a model, and what is installed.",
    "doctor": "Say what is installed, what is missing, what for, and how to get it.",
    "completion": "Print the script that completes commands in a shell.",
}


class _LazyGroup(click.Group):
    """A group over ``COMMANDS`` that imports a command only when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"sgsc_edge.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = closest(name, COMMANDS)
            hint = f"Did you mean '{near}'?" if near else f"Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


cli = _LazyGroup(
    PROGRAM,
    help="Take a trained PyTorch model to a device, and prove that it still works there.",
    epilog="Options can also be set in the environment: those of a command as SGSC_EDGE_<COMMAND>_<OPTION>, "
    "--json, --quiet and --verbose as SGSC_EDGE_<OPTION>.",
    context_settings=CONTEXT,
)
cli = click.version_option(package_name=PROGRAM, prog_name=PROGRAM)(cli)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. ``args`` defaults to the process's own."""
    arguments = list(sys.argv[1:] if args is None else args)
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, PROGRAM, COMPLETE, instruction)
    output = Output.guess(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's encoding lacks is no crash
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = _run(arguments, output)
        return result.exit_code if result is None or print_result(result, output) else 2
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        if not output.as_json:
            error.show(sys.stderr)
            return InputError.exit_code
        return print_error(InputError(error.format_message(), where="command line"), output)
    except SgscError as error:
        return print_error(error, output)
    except (KeyboardInterrupt, click.Abort):
        return print_error(Interrupted("interrupted", remedy="run the same command again to go on"), output)
    except Exception as error:
        return print_error(error, output)


def _run(arguments: list[str], output: Output) -> Result:
    with cli.make_context(PROGRAM, arguments, obj=output) as context:
        result = cli.invoke(context)
    assert isinstance(result, Result)
    return result


if __name__ == "__main__":
    sys.exit(main())
