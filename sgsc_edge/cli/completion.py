"""``sgsc-edge completion SHELL``."""

from __future__ import annotations

import click

from sgsc_edge.cli.arguments import OneOf
from sgsc_edge.cli.output import Command, Result, command_options

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=Command)
@click.argument("shell", type=OneOf(SHELLS))
@command_options
def command(shell: str) -> Result:
    """Print the script with which SHELL completes commands, options, targets, boards and settings.

    \b
    bash   eval "$(sgsc-edge completion bash)"  in ~/.bashrc
    zsh    eval "$(sgsc-edge completion zsh)"   in ~/.zshrc, behind compinit
    fish   sgsc-edge completion fish > ~/.config/fish/completions/sgsc-edge.fish
    """
    from click.shell_completion import get_completion_class

    from sgsc_edge.cli.main import COMPLETE, PROGRAM, cli

    machinery = get_completion_class(shell)
    assert machinery is not None  # click has all three
    script = machinery(cli, {}, PROGRAM, COMPLETE).source()
    return Result({"shell": shell, "script": script}, script)
