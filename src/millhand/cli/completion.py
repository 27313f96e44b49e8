"""`millhand completion`: the script that completes commands, options and their words in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from millhand.shells.cli.command import Choice, Command
from millhand.shells.cli.param_types import OneOf

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    choice=Choice.NONE,
    example="millhand completion bash > ~/.local/share/bash-completion/completions/millhand",
)
@click.argument("shell", metavar="SHELL", type=OneOf(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """
    Print the script that completes millhand in bash, zsh or fish.

    Write it to the shell's directory of completions, once. The script asks the installed millhand, so you need not
    repeat this after an upgrade.
    """
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click knows the shells above
    root = context.find_root()
    click.echo(script(root.command, {}, "millhand", "_MILLHAND_COMPLETE").source(), nl=False)
