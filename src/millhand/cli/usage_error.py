"""The text of a wrong command line, in the form of all errors: subject, rule, value, remedy."""

from __future__ import annotations

import click

_SLOTS = "write --queue NAME:N for N jobs at a time, such as --queue default:10"
# Options of the workers of other job systems.
_ELSEWHERE = {
    "--concurrency": _SLOTS,
    "-c": _SLOTS,
    "--threads": _SLOTS,
    "-t": _SLOTS,
    "--workers": f"{_SLOTS}, and --processes N for several processes",
    "-w": f"{_SLOTS}, and --processes N for several processes",
    "--app": "name your configuration, such as millhand worker shop.jobs:config",
    "-A": "name your configuration, such as millhand worker shop.jobs:config",
    "-Q": "did you mean '--queue'?",
    "-l": "did you mean '--log-level'?",
}


def usage_text(error: click.UsageError) -> str:
    """Return the text of an error of click's parser."""
    command = error.ctx.command_path if error.ctx is not None else "millhand"
    see = f"; see: {command} --help"
    match error:
        case click.NoSuchOption(option_name=name):
            near = f"; did you mean {error.possibilities[0]!r}?" if error.possibilities else see
            if command == "millhand worker" and name in _ELSEWHERE:
                near = f"; {_ELSEWHERE[name]}"
            return f"{command} has no option {name!r}{near}"
        case click.MissingParameter():
            return f"{_name(error)} must be given, got none{see}"
        case click.BadParameter():
            return f"{_name(error)} {error.message}"
        case click.BadOptionUsage(option_name=name) if "requires" in error.message:
            return f"{name} must have a value, got none{see}"
        case click.BadOptionUsage(option_name=name):
            return f"{name} must have no value, got one{see}"
    message = error.format_message().rstrip(".")
    return (
        message if message.startswith("millhand") else f"{command}: {message[:1].lower()}{message[1:]}{see}"
    )


def _name(error: click.BadParameter) -> str:
    """Return how the command line calls a parameter."""
    match error.param:
        case click.Option(opts=names):
            return max(names, key=len)
        case click.Argument() as argument:
            return (argument.metavar or (argument.name or "").upper()).strip("[].")
        case _:
            return "the command line"
