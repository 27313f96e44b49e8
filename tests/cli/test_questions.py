"""Questions that a command asks on a terminal."""

from __future__ import annotations

import asyncio
import io

import pytest

from cli_runner import millhand
from millhand.core.secret import masked_url
from millhand.db.driver.asyncpg import AsyncpgDriver

pytestmark = pytest.mark.usefixtures("project")


class InterruptedTerminal(io.StringIO):
    """A terminal on which Ctrl-C is pressed at the first question."""

    def __init__(self) -> None:
        super().__init__()
        self.has_loop: list[bool] = []

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.has_loop.append(False)
        else:
            self.has_loop.append(True)
        raise KeyboardInterrupt


QUESTIONS = {
    "job delete --state available": "Delete 1 job",
    "migrate down --line main --max-steps 3": "Drop versions 8 to 6 of line main and their data from {place}",
    "migrate down --line millhand": "Drop version 16 of line millhand and its data from {place}",
    "orphans bind": "Bind file:bucket to this database",
    "orphans restore --run 3": "Restore the objects of run 3 in file:bucket",
    "orphans run --mode delete": "Delete the orphans that are due in file:bucket",
}


@pytest.mark.slow
async def test_ctrl_c_at_a_question_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """The question waits outside of the event loop, which would take Ctrl-C, so that the command ends and does nothing."""
    monkeypatch.setenv("MILLHAND_STORAGE_URL", "file:bucket")
    await millhand("job", "insert", "greet")
    place = f"schema {schema_driver.schema!r} of database {masked_url(postgres_url)!r}"
    for command, question in QUESTIONS.items():
        terminal = InterruptedTerminal()
        monkeypatch.setattr("sys.stdin", terminal)

        result = await millhand(*command.split())

        assert (terminal.has_loop, result.code) == ([False], 130), command
        shown = result.err.replace(": \n", ":\n")
        assert shown == f"{question.format(place=place)}? [y/N]:\nerror: interrupted; nothing more was done\n"

    assert len((await millhand("job", "list")).lines) == 1
    assert (await millhand("migrate", "validate")).code == 0
