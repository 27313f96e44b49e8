"""
`millhand probe`: ask the worker beside it whether it is live, ready or started, for probes that run a command.

It runs every few seconds, so it imports little; the settings file is read only without the variable.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import click

from millhand.core.errors import ConfigError, MillhandError
from millhand.observe.http_server import Address, parsed_address
from millhand.shells.cli.command import Choice, Command
from millhand.shells.cli.param_types import OneOf
from millhand.shells.exit_code import DONE, NOT_DONE

VARIABLE = "MILLHAND_OBSERVE_LISTEN"
PATHS = {"live": "/livez", "ready": "/readyz", "startup": "/startupz"}
ANSWER_SECONDS = 5.0
ANSWER_BYTES_MAX = 64 * 1024
ANY_HOST = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


@click.command(
    cls=Command,
    choice=Choice.NONE,
    example="millhand probe live",
    epilog="For exec probes of Kubernetes and HEALTHCHECK of Docker. Exit code 0 if it is, 1 if not or if nothing answers.",
)
@click.argument("probe", type=OneOf(list(PATHS)), metavar="live|ready|startup")
@click.pass_obj
def probe(config_path: Path | None, *, probe: str) -> int:
    """
    Ask the worker on this machine whether it is live, ready or started.

    The command asks at the address of listen in [observe], and prints the answer, which is a reason if it is not.
    """
    address = _address(config_path)
    try:
        status, line = asked(address, PATHS[probe])
    except OSError as error:
        raise MillhandError(
            f"a worker must answer at {address.text!r}, got: {error.strerror or error}; check that it runs, and with the "
            f"same listen in [observe], or {VARIABLE}"
        ) from error
    click.echo(line)
    return DONE if status == "200" else NOT_DONE


def _address(config_path: Path | None) -> Address:
    """Return where the worker answers. Raises: ConfigError."""
    text = os.environ.get(VARIABLE, "")
    if text:
        return _named(VARIABLE, text)
    from millhand.shells.settings.load import load_settings  # noqa: PLC0415 - slow

    settings = load_settings(config_path)
    text = settings.get("observe.listen")
    if not text:
        raise ConfigError(
            f'listen in [observe] must be the address of the worker\'s probes, got none; write listen = ":9464", or set '
            f"{VARIABLE}, for the worker too"
        )
    with settings.errors_with_origin("observe"):
        return parsed_address(text)


def _named(variable: str, text: str) -> Address:
    try:
        return parsed_address(text)
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error}") from error


def asked(address: Address, path: str) -> tuple[str, str]:
    """Return the status and the first line of the answer of a path. Raises: OSError."""
    host = "127.0.0.1" if address.host in ANY_HOST else address.host
    with socket.create_connection((host, address.port), timeout=ANSWER_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while (piece := connection.recv(ANSWER_BYTES_MAX)) and len(answer) < ANSWER_BYTES_MAX:
            answer += piece
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    words = head.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/"):  # noqa: PLR2004 - version and status
        raise OSError("another program answers there")
    return words[1], body.partition("\n")[0]
