"""`python -m millhand.embedded [DIRECTORY]`: run a server until Ctrl-C, and delete it unless a directory is named."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from millhand.embedded import EmbeddedError, embedded_postgres


def main(arguments: list[str]) -> int:
    with contextlib.ExitStack() as leaving:
        if arguments:
            directory = Path(arguments[0])
        else:
            directory = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="millhand-")))
            directory.chmod(0o755)  # for root, the server runs as another user, who must be able to enter
        try:
            server = leaving.enter_context(embedded_postgres(directory))
        except EmbeddedError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(server.url, flush=True)
        print(f"PostgreSQL {server.version} in {server.data}, until Ctrl-C", file=sys.stderr, flush=True)
        signal.sigwait({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    return 0


if __name__ == "__main__":
    # Blocked signals wait for `sigwait`, so that none interrupts a start.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT, signal.SIGTERM})
    sys.exit(main(sys.argv[1:]))
