"""
The names that a version number covers, one a line: Python, settings, commands, log messages and metrics.

    python .ci/public_names.py    # prints them

`released_names.txt` has those of the last release. `just release` writes it.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path

import click

from millhand.cli.main import cli
from millhand.core.metrics.definitions import METRICS
from millhand.shells.settings.catalog import all_settings

PROJECT = Path(__file__).parents[1]
API = PROJECT / "docs" / "reference" / "api"
MESSAGES = PROJECT / "docs" / "reference" / "log_messages.md"
RELEASED = Path(__file__).with_name("released_names.txt")


def public_names() -> list[str]:
    """Return the names, sorted."""
    return sorted({*_python(), *_settings(), *_commands(cli, "millhand"), *_messages(), *_metrics()})


def text() -> str:
    """Return the text of the file."""
    return "".join(f"{name}\n" for name in public_names())


def _python() -> Iterator[str]:
    for page in API.glob("*.md"):
        for path in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
            module, _, name = path.rpartition(".")
            yield f"python {path}"
            if not path.startswith("millhand.contrib."):  # these need what is not installed everywhere
                yield from _parts(path, getattr(importlib.import_module(module), name))


def _parts(path: str, value: object) -> Iterator[str]:
    """Yield the parameters of a function, and those of a class and its methods."""
    if isinstance(value, EnumType):
        for member in value.__members__:
            yield f"python {path}.{member}"
        return
    if inspect.isclass(value):
        methods = [
            (name, one) for name, one in vars(value).items() if not name.startswith("_") and callable(one)
        ]
        for name, method in methods:
            yield f"python {path}.{name}"
            yield from _parameters(f"{path}.{name}", method)
    if inspect.isclass(value) or inspect.isfunction(value):
        yield from _parameters(path, value)


def _parameters(path: str, value: object) -> Iterator[str]:
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    for one in parameters:
        if one.name not in ("self", "cls") and not one.name.startswith("_"):
            yield f"python {path}({one.name})"


def _settings() -> Iterator[str]:
    for path in all_settings():
        yield f"setting {path}"


def _commands(command: click.Command, path: str) -> Iterator[str]:
    yield f"command {path}"
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-"):
                yield f"command {path} {option}"
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, f"{path} {name}")


def _messages() -> Iterator[str]:
    for cell in re.findall(r"^\| (`[^|]+) \|", MESSAGES.read_text(), re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", cell):
            yield f"log {message}"


def _metrics() -> Iterator[str]:
    for metric in METRICS:
        yield f"metric {metric.name}"
        for label in metric.labels:
            yield f"metric {metric.name}{{{label}}}"


if __name__ == "__main__":
    sys.stdout.write(text())
