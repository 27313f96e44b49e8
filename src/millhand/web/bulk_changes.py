"""Making, starting and stopping a change of many jobs."""

from __future__ import annotations

from millhand.core.errors import ConfigError, NotFound
from millhand.engine.store.bulk_change import (
    BulkAction,
    BulkChange,
    BulkState,
    bulk_change_get,
    bulk_change_get_shape,
    bulk_change_insert,
    bulk_change_start,
    bulk_change_stop,
)
from millhand.shells.settings.web_user import Role, User
from millhand.shells.web.change import Changed, ChangeRequest, record
from millhand.shells.web.form import whole_number
from millhand.web.search import parse_search
from millhand.web.search_conditions import without_hidden
from millhand.web.time_zone import zone_named

# Above it, the user types the number of jobs.
TYPED_ABOVE = 1_000
PACE_MAX = 100_000
NEEDS_MIGRATION = "bulk changes must have their tables, got none; run: millhand migrate up"


async def insert_bulk(request: ChangeRequest) -> Changed:
    """
    Collect the jobs that the search `q` selects, for `action`: `retry`, `cancel` or `delete`. No job is changed yet.

    Raises: ValueError for an invalid search or action, ConfigError without the tables.
    """
    if not await request.database.has(bulk_change_get_shape):
        raise ConfigError(NEEDS_MIGRATION)
    action = _action(request)
    search = without_hidden(parse_search(request.field("q")), request.hide)
    if not search.is_valid:
        raise ValueError(f"{search.problems[0]}")
    user, zone = request.user, request.field("time_zone")
    query = bulk_change_insert(
        action=action,
        search=str(search),
        time_zone=str(zone_named(zone) if zone else request.zone),
        only_queues=user.queues,
        only_kinds=user.kinds,
        actor=user.name,
        role=user.role.label,
        address=request.address,
    )
    async with request.database.driver.pool.begin() as tx:
        change = await tx.run(query)
        done = _changed(change, "collect")
        await record(tx, request, done, {"change": action.value, "search": str(search)})
    await request.wake_bulk()
    return done


async def start_bulk(request: ChangeRequest) -> Changed:
    """
    Start a change whose jobs are collected, or that was stopped: all at once, or `jobs_per_second`.

    Above 1,000 jobs, `confirm` must be their number. Raises: NotFound, NotStartable, ValueError.
    """
    change = await _visible(request)
    if change.num_left > TYPED_ABOVE and request.field("confirm").replace(",", "") != str(change.num_left):
        raise ValueError(
            f"confirm must be the number of jobs, {change.num_left}, got {request.field('confirm')!r}"
        )
    text = request.field("jobs_per_second")
    pace = whole_number("jobs_per_second", text, maximum=PACE_MAX) if text else None
    async with request.database.driver.pool.begin() as tx:
        started = await tx.run(bulk_change_start(change.id, jobs_per_second=pace))
        done = _changed(started, "start")
        await record(tx, request, done, {"change": change.action.value, "num_jobs": change.num_left})
    await request.wake_bulk()
    return done


async def stop_bulk(request: ChangeRequest) -> Changed:
    """Stop a change; what is done stays done. Raises: NotFound, NotStartable."""
    change = await _visible(request)
    async with request.database.driver.pool.begin() as tx:
        stopped = await tx.run(bulk_change_stop(change.id, reason=f"stopped by {request.user.name}"))
        done = _changed(stopped, "stop")
        await record(tx, request, done, {"num_changed": stopped.num_changed, "num_left": stopped.num_left})
    return done


def may_change(user: User, change: BulkChange) -> bool:
    """Return whether a user may start and stop a change: it lies within the user's limits and role."""
    return is_visible(user, change) and user.role >= _role(change.action)


def is_visible(user: User, change: BulkChange) -> bool:
    """Return whether a change lies within a user's limits."""
    limits = ((user.queues, change.only_queues), (user.kinds, change.only_kinds))
    return all(own is None or (asked is not None and set(asked) <= set(own)) for own, asked in limits)


async def _visible(request: ChangeRequest) -> BulkChange:
    change = await request.database.run(bulk_change_get(int(request.path["id"])))
    if not may_change(request.user, change):
        raise NotFound("bulk change", change.id)
    return change


def _action(request: ChangeRequest) -> BulkAction:
    text = request.field("action")
    try:
        action = BulkAction(text)
    except ValueError:
        raise ValueError(f"action must be retry, cancel or delete, got {text!r}") from None
    request.user.require(_role(action))
    return action


def _role(action: BulkAction) -> Role:
    return Role.ADMIN if action is BulkAction.DELETE else Role.OPERATOR


def _changed(change: BulkChange, action: str) -> Changed:
    return Changed(
        action=action,
        subject=f"bulk {change.action}",
        num_jobs=change.num_left if action == "start" and change.state is BulkState.RUNNING else 0,
        path=f"/bulk/{change.id}",
    )
