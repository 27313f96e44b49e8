"""Read the text of a settings file, which may be a pipe: `--config <(…)`."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from millhand.core.errors import ConfigError


def read_settings(path: Path, name: str) -> str:
    """Return the text of the file that errors call `name`. Raises: ConfigError; UnicodeDecodeError."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for a program that writes to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        with io.FileIO(handle) as file:
            return _read(file, name).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{name} must be a readable file, got: {error.strerror}") from error


def _read(file: io.FileIO, name: str) -> bytes:
    found = os.fstat(file.fileno())
    if stat.S_ISBLK(found.st_mode) or (
        stat.S_ISCHR(found.st_mode) and found.st_rdev != Path(os.devnull).stat().st_rdev
    ):
        raise ConfigError(f"{name} must be a regular file, got a device; write the settings to a file")
    begin = file.read()  # None: a program has the pipe open, but has not written to it yet
    if stat.S_ISFIFO(found.st_mode) and begin == b"":
        raise ConfigError(f"{name} must be a regular file, got a pipe to which no program writes")
    os.set_blocking(file.fileno(), True)
    return (begin or b"") + (file.read() or b"")
