"""The list of checks: names, levels, the reference page, and what happens when a check cannot ask."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pytest
from doctor_worlds import context_on, unseen
from test_server_checks import server

from checks_page import PAGE, draw_page, parts_of
from millhand.core.errors import DriverError, MillhandError, OperationTimeout
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.db.query import Query
from millhand.doctor.catalog import CHECKS, Check, run_checks
from millhand.doctor.context import Context
from millhand.shells.doctor.finding import Found, Level

T = TypeVar("T")


def test_checks_have_names_by_area_and_known_levels() -> None:
    """A name is an area and a subject, areas are together, and each condition belongs to a level."""
    names = [check.name for check in CHECKS]
    areas = [check.area for check in CHECKS]

    assert len(set(names)) == len(names) >= 30
    assert all(name.count(".") == 1 for name in names)
    assert [area for at, area in enumerate(areas) if area in areas[:at] and areas[at - 1] != area] == []
    levels = {level for check in CHECKS for level, _ in parts_of(check.finds)}
    assert levels == {level.value for level in Level}


def test_reference_page_has_every_check() -> None:
    """The tables of docs/reference/doctor.md are those of the code: `python docs/.writers/checks_page.py` writes them."""
    assert PAGE.read_text(encoding="utf-8") == draw_page()


class Failing:
    """An executor that answers one statement, and raises for every other one."""

    def __init__(self, error: MillhandError, *, is_standby: bool) -> None:
        self._error = error
        self._server = server(is_standby=is_standby)

    async def run(self, query: Query[Any]) -> Any:
        if query.name == "doctor_get_server":
            return self._server
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason", "is_standby"),
    [
        (
            DriverError("q", "cannot access unlogged relations during recovery", sqlstate="0A000"),
            "A standby cannot answer it.",
            True,
        ),
        (
            DriverError("q", "permission denied for table t", sqlstate="42501"),
            "The role may not look: permission denied for table t.",
            False,
        ),
        (DriverError("q", "no table", sqlstate="42P01"), "The schema is not complete.", False),
        (DriverError("q", "too many", sqlstate="53300"), "There was no answer: too many.", False),
        (
            OperationTimeout("q", 10.0),
            "There was no answer: q must answer within 10 s, got no answer.",
            False,
        ),
    ],
)
async def test_check_that_cannot_ask_says_why(
    driver: AsyncpgDriver, error: MillhandError, reason: str, *, is_standby: bool
) -> None:
    """An error of a statement is never taken for `nothing found`: each check that needs it cannot see."""

    @contextlib.asynccontextmanager
    async def other_session() -> AsyncIterator[Executor]:
        raise error
        yield

    context = context_on(driver)
    context.executor, context.other_session = Failing(error, is_standby=is_standby), other_session  # type: ignore[assignment]
    context.__post_init__()

    report = await run_checks(context, CHECKS)

    of_server = {"server.settings", "server.connections", "server.notifications", "server.transaction_age"}
    assert unseen(report) == {
        check.name: reason
        for check in CHECKS
        if check.area not in ("bucket", "deploy") and check.name not in of_server
    }


async def test_check_that_raises_ends_no_other(driver: AsyncpgDriver) -> None:
    """A fault of a check itself is shown with its error, and the others answer."""

    async def divide(_: Context) -> Found:
        raise ZeroDivisionError("division by zero")

    async def find_nothing(_: Context) -> Found:
        return []

    checks = [
        Check(name=f"fleet.{ask.__name__}", asks="", finds="", ask=ask) for ask in (divide, find_nothing)
    ]
    report = await run_checks(context_on(driver), checks)

    failed, other = report.results
    assert [one.reason for one in failed.unseen] == ["The check failed: ZeroDivisionError: division by zero."]
    assert other.is_ok


async def test_error_with_a_remedy_keeps_it(driver: AsyncpgDriver) -> None:
    """The remedy of an error is that of what could not be seen; without one, the remedy is to run the command again."""
    remedies = {}
    for reason in ("too many clients", "no session; connect to PostgreSQL itself"):
        context = context_on(driver)
        context.executor = Failing(DriverError("q", reason), is_standby=False)  # type: ignore[assignment]
        context.__post_init__()

        report = await run_checks(context, [check for check in CHECKS if check.name == "jobs.discarded"])

        [one] = report.results[0].unseen
        remedies[one.reason] = one.remedy

    assert remedies == {
        "There was no answer: too many clients.": "Run it again.",
        "There was no answer: no session.": "Connect to PostgreSQL itself.",
    }
