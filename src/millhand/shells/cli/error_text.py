"""The text and the exit code of an error, the same for every command."""

from __future__ import annotations

import click

from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.secret import masked_error
from millhand.observe.terminal_text import printable
from millhand.shells.exit_code import NOT_DONE, WRONG_USE


def explained(error: object) -> str:
    """Return the message of an error with secrets masked and control characters escaped."""
    return printable(masked_error(str(error)))


def exit_code(error: Exception) -> int:
    """Return the exit code of a command that ends with an error of Millhand's or of click's."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return WRONG_USE if isinstance(error, ConfigError | InvalidJob) else NOT_DONE
