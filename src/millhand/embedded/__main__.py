"""`python -m millhand.embedded`: run the server of this directory until Ctrl-C, and print the line that exports its URL."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from millhand.embedded import EmbeddedError, embedded_postgres, project_postgres


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m millhand.embedded",
        description="Run a PostgreSQL until Ctrl-C, and print the line that sets DATABASE_URL to it. "
        "Without DIRECTORY, it is the one of `millhand worker --embedded`.",
    )
    help_text = "where its data is; default: .millhand/postgres"
    parser.add_argument("directory", metavar="DIRECTORY", nargs="?", type=Path, help=help_text)
    directory = parser.parse_args(arguments).directory
    try:
        with embedded_postgres(directory) if directory else project_postgres(Path.cwd()) as server:
            print(f"PostgreSQL {server.version} in {server.data}, until Ctrl-C", file=sys.stderr, flush=True)
            # Quoted, because the URL has a `&`. It has no quote: `embedded_postgres` encodes them.
            print(f"export DATABASE_URL='{server.url}'", flush=True)
            signal.sigwait({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    except EmbeddedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Blocked signals wait for `sigwait`, so that none interrupts a start.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    sys.exit(main(sys.argv[1:]))
