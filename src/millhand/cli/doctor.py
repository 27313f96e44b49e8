"""`millhand doctor`: find what is wrong with a fleet, its database and its bucket, and name remedies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import click

from millhand.cli.doctor_report import print_report, report_fields
from millhand.cli.kinds_check import check_queued
from millhand.cli.worked_kinds import worked_args
from millhand.core.config import Config
from millhand.db.driver.protocol import Executor
from millhand.doctor.catalog import CHECKS, Check, run_checks
from millhand.doctor.context import Context, Deployed
from millhand.doctor.deploy_checks import UnworkableJobs
from millhand.shells.cli.answers import gathered
from millhand.shells.cli.chosen_database import all_settings_of, command_settings, is_for_all
from millhand.shells.cli.command import Choice, Command
from millhand.shells.cli.database import Database, database, named_database, opened
from millhand.shells.cli.options import json_option, list_option
from millhand.shells.cli.output import NotDone, WrongUse, print_json
from millhand.shells.cli.store_target import open_configured_store
from millhand.shells.cli.target import load_config
from millhand.shells.doctor.finding import Report
from millhand.shells.settings.decode import guess
from millhand.shells.settings.load import DEFAULT, Settings, load_settings

# A pipeline reads the exit code alone, so a release is not in order if a check of these areas could not look.
RELEASE_AREAS = ("deploy", "roles", "schema")


@click.command(
    cls=Command,
    example="millhand doctor\nmillhand doctor --only server,queues.unworked --json",
    choice=Choice.ANY,
    epilog="Exit code 0: nothing is broken; 1: something is broken, or the database does not answer. With --deploy also "
    "1: a check of schema, roles or deploy could not see everything.",
)
@list_option("--only", "only", "Run only this check, or those of an area such as server", metavar="NAME")
@click.option(
    "--deploy",
    "target",
    metavar="MODULE:CONFIG",
    help="Check too that this configuration can work the queued jobs, and that the role may work.",
)
@list_option(
    "--elsewhere", "elsewhere", "With --deploy, skip this kind: other programs work it", metavar="KIND"
)
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    /,
    *,
    only: tuple[str, ...],
    target: str | None,
    elsewhere: tuple[str, ...],
    is_json: bool,
) -> None:
    """
    Find what is wrong, and what to do about it.

    The command checks the schema, the server, the connection, the clients, the queues and the jobs, and the bucket if
    [storage] names one. It changes nothing, but for a small object below .millhand/doctor/ of the bucket, which it deletes.

    A finding is broken (jobs do not run, or may be lost), harmful (jobs run late, or tables grow) or notable. What the role
    cannot see is listed as such. With --all-databases, the bucket is not checked, because it belongs to one database.
    """
    if elsewhere and target is None:
        raise WrongUse("--elsewhere must be used with --deploy, got none; add it")
    config = None if target is None else load_config(target, Path.cwd())
    checks = chosen(only, CHECKS)

    async def examine(settings: Settings, base: Database, *, has_store: bool) -> Report:
        deployed = None
        if config is not None and target is not None:
            settings = settings.with_config(config, target)
            deployed = _deployed(settings, config, target, elsewhere)
        return await _examine(settings, base, deployed, checks, has_store=has_store)

    if is_for_all():
        reports = _examine_all(context.obj, examine, is_json=is_json)
    else:
        settings = command_settings(context.obj)
        with database(settings) as base:
            report = asyncio.run(examine(settings, base, has_store=settings.origin("storage.url") != DEFAULT))
        reports = [report]
        if is_json:
            print_json(report_fields(report))
        else:
            print_report(report)
    if any(report.is_broken for report in reports):
        context.exit(1)
    if target is not None:
        _require_checked(reports)


def _examine_all(
    config_path: Path | None, examine: Callable[..., Awaitable[Report]], *, is_json: bool
) -> list[Report]:
    """Print and return the report of each database. Raises: NotDone if one does not answer."""

    async def examine_one(settings: Settings) -> Report:
        # A bucket belongs to one database, and the settings do not say to which.
        return await examine(settings, named_database(settings), has_store=False)

    answers = asyncio.run(gathered(all_settings_of(load_settings(config_path)), examine_one))
    if is_json:
        print_json([{"database": name, "report": report_fields(one)} for name, one in answers.values.items()])
    else:
        for name, one in answers.values.items():
            print_report(one, name)
    answers.require_all()
    return list(answers.values.values())


def _require_checked(reports: Sequence[Report]) -> None:
    """Raise NotDone if a check of a release could not see everything."""
    unseen = [result.check for report in reports for result in report.unseen_in(RELEASE_AREAS)]
    if unseen:
        raise NotDone(
            f"the checks of a release must see everything, got no full answer to {', '.join(dict.fromkeys(unseen))}; "
            "follow the remedy of what is unseen"
        )


def chosen(only: Sequence[str], checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return the checks that have one of these names or areas; all without names. Raises: WrongUse."""
    known = {check.name for check in checks} | {check.area for check in checks}
    for name in only:
        if name not in known:
            raise WrongUse(f"--only must name a check or an area, got {name!r}{guess(name, sorted(known))}")
    return tuple(check for check in checks if not only or {check.name, check.area} & set(only))


def _deployed(settings: Settings, config: Config, target: str, elsewhere: Sequence[str]) -> Deployed:
    workers = worked_args(settings, config, target)

    async def check(executor: Executor) -> list[UnworkableJobs]:
        report = await check_queued(executor, workers, elsewhere=elsewhere)
        return [
            UnworkableJobs(
                kind=one.kind,
                num_jobs=one.num_jobs,
                example_id=one.example_id,
                has_worker=one.problem == "args",
                message=one.message,
            )
            for one in report.findings
        ]

    return Deployed(name=target, check_queued=check, periodic_jobs=config.periodic_jobs)


async def _examine(
    settings: Settings, base: Database, deployed: Deployed | None, checks: Sequence[Check], *, has_store: bool
) -> Report:
    """Run the checks on one session, and open others for those that need them."""

    @contextlib.asynccontextmanager
    async def other_session() -> AsyncIterator[Executor]:
        other = base.driver(settings, 1)
        await other.open()
        try:
            yield other.pool
        finally:
            await other.close()

    retention = "worker.completed_job_retention"
    async with contextlib.AsyncExitStack() as stack:
        store = open_configured_store(settings) if has_store else None
        if store is not None:
            stack.push_async_callback(store.aclose)
        driver = await stack.enter_async_context(
            opened(base.driver(settings, 1), base.url, base.url_variable)
        )
        context = Context(
            executor=driver.pool,
            other_session=other_session,
            schema=driver.schema,
            is_poll_only=settings.get("worker.poll_only"),
            completed_retention=settings.get(retention),
            is_retention_known=deployed is not None or settings.origin(retention) != DEFAULT,
            orphans=settings.orphans_config(),
            store=store,
            deployed=deployed,
        )
        return await run_checks(context, checks)
