"""Claims about `millhand limit`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

import pytest

from cli_runner import millhand
from factory import insert_job
from limited_queue import LimitedQueue
from millhand.core.job import ClientId, JobState
from millhand.core.limit import Limit, Rate
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator
from millhand.engine.store.client import ClientHeartbeatParams, client_heartbeat
from millhand.limits.job_store import limited_job_collect
from millhand.limits.store import (
    limit_declare,
    limit_list,
    limit_partition_list,
    limit_partition_set,
    limit_set,
)

pytestmark = pytest.mark.usefixtures("project")


async def _limit(driver: AsyncpgDriver, queue: str) -> Limit | None:
    listed = await driver.pool.run(limit_list(queue=queue))
    return listed[0].row.limit if listed and listed[0].row else None


async def test_limit_set_changes_what_it_names(schema_driver: AsyncpgDriver) -> None:
    """Each option sets one value, `none` removes a bound, and the message has the limit in force."""
    made = await millhand(
        "limit", "set", "crm", "--at-once", "3", "--at-once-per-client", "2", "--total", "50", "--by-args", "a, b",
        "--by-kind", "--rate", "100/1m", "--burst", "10", "--note", "as the API allows",
    )  # fmt: skip
    full = await _limit(schema_driver, "crm")
    changed = await millhand(
        "limit", "set", "crm", "--at-once", "1", "--total", "none", "--rate", "none", "--by-args", "none",
        "--no-by-kind", "--in-order", "--note", "none",
    )  # fmt: skip

    assert (made.code, made.out) == (0, "")
    assert made.err == (
        "set limit of queue crm: at once 3, at once per client 2, total 50, rate 100/1 min, burst 10, by kind,a,b\n"
    )
    assert full == Limit(
        at_once=3,
        at_once_per_client=2,
        total=50,
        by_args=["a", "b"],
        by_kind=True,
        rate=Rate(100, per=timedelta(minutes=1), burst=10),
        note="as the API allows",
    )
    assert changed.err == "set limit of queue crm: at once 1, at once per client 2, in order\n"
    assert await _limit(schema_driver, "crm") == Limit(at_once=1, at_once_per_client=2, in_order=True)


@pytest.mark.slow
async def test_limit_set_with_a_key_changes_one_partition(schema_driver: AsyncpgDriver) -> None:
    """`--key` names a partition, which has a bound and a weight of its own."""
    await schema_driver.pool.run(limit_set("mail", Limit(at_once=1, by_args=["tenant"])))

    done = await millhand("limit", "set", "mail", "--key", "acme", "--at-once", "20", "--weight", "3")
    undone = await millhand("limit", "set", "mail", "--key", '["acme"]', "--at-once", "none")

    assert done.err == 'set partition ["acme"] of queue mail: at once 20, weight 3\n'
    assert undone.err == 'set partition ["acme"] of queue mail: at once of the limit, weight 3\n'


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ([], 2, "error: set must change something, got no option; see: millhand limit set --help\n"),
        (["--weight", "2"], 2, "error: --weight must come with --key, got it alone; a limit has no weight\n"),
        (["--burst", "2"], 2, "error: --burst must come with --rate, got 2 alone\n"),
        (
            ["--rate", "100"],
            2,
            "error: --rate must be a number of jobs and a duration, got '100'; write 100/1m\n",
        ),
        (
            ["--rate", "100/1m"],
            2,
            "error: --rate must come with --burst, got '100/1m' alone; at most burst + rate jobs start in any 1m\n",
        ),
        (
            ["--key", "acme", "--total", "3"],
            2,
            "error: --total must be left out with --key; a partition has only --at-once and --weight\n",
        ),
        (
            ["--key", "acme", "--weight", "2"],
            1,
            "error: queue must have a limit, found none for 'mial'; did you mean 'mail'?\n",
        ),
    ],
)
async def test_limit_set_explains_wrong_use(
    schema_driver: AsyncpgDriver, options: Sequence[str], code: int, text: str
) -> None:
    """An error names the option, the rule and the remedy, and nothing is changed."""
    await schema_driver.pool.run(limit_set("mail", Limit(at_once=1)))

    result = await millhand("limit", "set", "mial", *options)

    assert (result.code, result.err) == (code, text)
    assert await _limit(schema_driver, "mial") is None


async def test_limit_set_names_the_rule_of_an_invalid_limit(schema_driver: AsyncpgDriver) -> None:
    """The rules of a limit hold on the command line too."""
    none = await millhand("limit", "set", "mail", "--by-kind")
    zero = await millhand("limit", "set", "mail", "--at-once", "0")

    assert none.code != 0
    assert "limit must have at_once, at_once_per_client, total, rate or in_order, got none" in none.err
    assert (zero.code, "must be a whole number of at least 1, got '0'" in zero.err) == (2, True)
    assert await schema_driver.pool.run(limit_list()) == []


@pytest.mark.slow
async def test_limit_list_and_show_have_the_limits(schema_driver: AsyncpgDriver) -> None:
    """A limit is listed with who set it, and shown with its partitions."""
    pool = schema_driver.pool
    await pool.run(limit_declare({"mail": Limit(at_once=2, total=9, by_args=["tenant"])}))
    await pool.run(limit_set("crm", Limit(in_order=True, by_kind=True)))
    await pool.run(limit_partition_set("mail", ["acme"], weight=3))

    listed = await millhand("limit", "list")
    shown = await millhand("limit", "show", "mail")
    shown_json = (await millhand("limit", "show", "mail", "--json")).json

    assert [line[:10] for line in listed.lines] == [
        ["crm", "1", "", "", "kind", "", "yes", "no", "no", "run time"],
        ["mail", "2", "", "9", "tenant", "", "no", "no", "no", "code"],
    ]
    assert [line for line in shown.out.splitlines() if line.startswith(("partitions", "running", "["))] == [
        "partitions\ttenant",
        "running\t0",
        '["acme"]\t0\t0\t3\t\t\t\t',
    ]
    assert {name: shown_json[name] for name in ("queue", "at_once", "total", "by_args", "rate", "num_running")} == {
        "queue": "mail", "at_once": 2, "total": 9, "by_args": ["tenant"], "rate": None, "num_running": 0,
    }  # fmt: skip
    assert shown_json["declared"]["at_once"] == 2
    assert [(one["key"], one["weight"], one["at_once"]) for one in shown_json["partitions"]] == [
        ('["acme"]', 3, None)
    ]


@pytest.mark.slow
async def test_limit_hold_and_release_change_one_partition(schema_driver: AsyncpgDriver) -> None:
    """A partition is held for a time, and released by the same key; a mistyped key is an error."""
    await schema_driver.pool.run(limit_set("mail", Limit(at_once=1, by_args=["tenant"])))

    held = await millhand("limit", "hold", "mail", "acme", "--for", "10m")
    [partition] = await schema_driver.pool.run(limit_partition_list("mail"))
    released = await millhand("limit", "release", "mail", "acme")
    mistyped = await millhand("limit", "release", "mail", "acne")
    wrong = await millhand("limit", "hold", "mail", "acme", "--for", "soon")

    assert re.fullmatch(
        r'held partition \["acme"\] of queue mail until 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ\n', held.err
    )
    assert partition.held_until is not None
    assert released.err == 'released partition ["acme"] of queue mail\n'
    assert (mistyped.code, mistyped.err) == (
        1,
        """error: partition of queue 'mail' must exist, found none with name '["acne"]'\n""",
    )
    assert (wrong.code, "--for must be" in wrong.err) == (2, True)


@pytest.mark.slow
async def test_a_key_that_may_be_a_number_or_a_text_is_refused(schema_driver: AsyncpgDriver) -> None:
    """The number 42 and the text "42" are two partitions: a bare 42 is an error, and '[42]' holds the jobs of the number."""
    await millhand("limit", "set", "mail", "--at-once", "1", "--by-args", "tenant")
    await millhand("limit", "set", "crm", "--at-once", "1", "--by-kind")
    queue = LimitedQueue(schema_driver.pool, "mail", now=None)
    [job] = await queue.insert(42)

    bare = [
        await millhand("limit", "hold", "mail", "42", "--for", "10m"),
        await millhand("limit", "release", "mail", "42"),
        await millhand("limit", "resume", "mail", "42"),
        await millhand("limit", "set", "mail", "--key", "42", "--weight", "3"),
    ]
    others = [await millhand("limit", "hold", "mail", key, "--for", "10m") for key in ("true", "null", "1e3")]
    held = await millhand("limit", "hold", "mail", "[42]", "--for", "10m")
    while_held = await queue.fetch()
    released = await millhand("limit", "release", "mail", "[42]")
    text = await millhand("limit", "hold", "mail", '["42"]', "--for", "10m")
    kind = await millhand("limit", "hold", "crm", "42", "--for", "10m")

    refusal = (
        "error: key must be an array if it may be a text or another JSON value, got '42'; write '[42]' for the value "
        "42, or '[\"42\"]' for the text\n"
    )
    assert {(one.code, one.err) for one in bare} == {(2, refusal)}
    assert [one.code for one in others] == [2, 2, 2]
    assert (held.code, while_held, released.code) == (0, [], 0)
    assert [one.id for one in await queue.fetch()] == [job.id]
    assert (text.code, kind.code) == (0, 0)


@pytest.mark.slow
async def test_limit_halted_and_resume(schema_driver: AsyncpgDriver) -> None:
    """A halted partition is listed with the job that halted it, is not held or released, and is resumed once."""
    pool = schema_driver.pool
    await millhand("limit", "set", "accounts", "--in-order", "--halt", "--by-args", "tenant")
    queue = LimitedQueue(pool, "accounts", now=None)
    first, _ = await queue.insert("acme", "acme")
    await queue.end(*await queue.fetch(), state=JobState.DISCARDED, finalized_at=first.created_at)

    listed = await millhand("limit", "halted")
    shown = await millhand("limit", "show", "accounts")
    [line] = (await millhand("limit", "halted", "accounts", "--json")).json
    refused = [
        await millhand("limit", "hold", "accounts", "acme", "--for", "10m"),
        await millhand("limit", "release", "accounts", "acme"),
    ]
    await millhand("limit", "set", "accounts", "--by-args", "tenant,region")
    resumed = await millhand("limit", "resume", "accounts", '["acme"]')
    again = await millhand("limit", "resume", "accounts", '["acme", "eu"]')
    none = await millhand("limit", "halted")

    assert [[*row[:3], row[4]] for row in listed.lines] == [["accounts", '["acme"]', str(first.id), "1"]]
    assert f'["acme"]\t0\t1\t1\t\t\t\t{first.id}' in shown.out
    assert (line["halted_by"], line["held_until"], line["waiting"]) == (first.id, None, 1)
    text = (
        f'error: partition ["acme"] of queue accounts must not be halted, got one that job {first.id} halted; '
        "retry the job, or skip it with: millhand limit resume\n"
    )
    assert {(one.code, one.err) for one in refused} == {(1, text)}
    assert resumed.err == 'resumed partition ["acme"] of queue accounts\n'
    assert (again.code, again.err) == (
        1,
        """error: halted partition of queue 'accounts' must exist, found none with name '["acme","eu"]'\n""",
    )
    assert (none.code, none.out) == (0, "")


@pytest.mark.slow
async def test_partition_that_was_halted_before_a_migration_down_and_up_is_held(
    schema_driver: AsyncpgDriver,
) -> None:
    """Nothing knows the job any more: the partition starts no job, `hold` changes it, and `release` opens it."""
    await millhand("limit", "set", "accounts", "--in-order", "--halt", "--by-args", "tenant")
    queue = LimitedQueue(schema_driver.pool, "accounts", now=None)
    first, second = await queue.insert("acme", "acme")
    await queue.end(*await queue.fetch(), state=JobState.DISCARDED, finalized_at=first.created_at)
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=13)
    await migrator.up()

    started = await queue.fetch()
    halted = await millhand("limit", "halted")
    [shown] = (await millhand("limit", "show", "accounts", "--json")).json["partitions"]
    held = await millhand("limit", "hold", "accounts", "acme", "--for", "10m")
    released = await millhand("limit", "release", "accounts", "acme")

    assert (started, halted.out, shown["held_until"], shown["halted_by"]) == (
        [],
        "",
        "9999-12-30T23:59:59Z",
        None,
    )
    assert (held.code, released.err) == (0, 'released partition ["acme"] of queue accounts\n')
    assert [job.id for job in await queue.fetch()] == [second.id]


async def test_limit_set_explains_halt(schema_driver: AsyncpgDriver) -> None:
    """`--halt` needs `--in-order`, and the message of a change has both."""
    wrong = await millhand("limit", "set", "accounts", "--at-once", "1", "--halt")
    done = await millhand("limit", "set", "accounts", "--in-order", "--halt")
    undone = await millhand("limit", "set", "accounts", "--no-halt")

    assert "halt must be False without in_order, got True; write in_order = True" in wrong.err
    assert done.err == "set limit of queue accounts: at once 1, in order, halt\n"
    assert undone.err == "set limit of queue accounts: at once 1, in order\n"
    assert await _limit(schema_driver, "accounts") == Limit(in_order=True)


@pytest.mark.slow
async def test_limit_reset_and_remove_undo_what_was_set(schema_driver: AsyncpgDriver) -> None:
    """`reset` returns to the code's limit; `remove` deletes it, and asks first."""
    await schema_driver.pool.run(limit_declare({"mail": Limit(at_once=2)}))
    await schema_driver.pool.run(limit_set("mail", Limit(at_once=7)))

    reset = await millhand("limit", "reset", "mail")
    after = await _limit(schema_driver, "mail")
    unsure = await millhand("limit", "remove", "mail")
    removed = await millhand("limit", "remove", "mail", "--yes")
    again = await millhand("limit", "reset", "mail")

    assert (reset.err, after) == ("reset limit of queue mail: at once 2\n", Limit(at_once=2))
    assert (unsure.code, "must be confirmed" in unsure.err) == (2, True)
    assert removed.err == "removed limit of queue mail\n"
    assert await _limit(schema_driver, "mail") is None
    assert again.err == "error: queue must have a limit, found none for 'mail'; see: millhand limit list\n"


@pytest.mark.slow
async def test_limit_list_names_the_missing_version(schema_driver: AsyncpgDriver) -> None:
    """On a schema that is older than limits, the error names the command that migrates it."""
    migrator = Migrator(schema_driver, "millhand")
    await migrator.down(target=9)
    try:
        result = await millhand("limit", "list")
    finally:
        await migrator.up()

    assert result.code == 1
    assert (
        "is at migration 9 of line 'millhand', this release needs 16; run: millhand migrate up" in result.err
    )


@pytest.mark.slow
async def test_retry_of_a_waiting_job_says_why_it_waits(schema_driver: AsyncpgDriver) -> None:
    """A job that waits for a slot is left in its place, and the message names the command that shows the limit."""
    await schema_driver.pool.run(limit_declare({"crm": Limit(at_once=1)}))
    job = await insert_job(schema_driver.pool, queue="crm")
    await schema_driver.pool.run(limited_job_collect("crm"))

    result = await millhand("job", "retry", job.id)

    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"error: job must not wait for a slot to be retried, got job {job.id} pending; see millhand limit show crm\n"
    )


async def test_limit_show_names_a_kind_that_holds_up_a_partition(schema_driver: AsyncpgDriver) -> None:
    """In order, a job of a kind that no client of the queue works keeps its partition waiting: a warning names the kind."""
    await schema_driver.pool.run(limit_declare({"crm": Limit(in_order=True)}))
    heartbeat = ClientHeartbeatParams(
        id=ClientId("a"), hostname="here", kinds=("push",), pid=1, queue_updates={}, queues={"crm": 1},
        heartbeat_interval=timedelta(minutes=1), version="1",
    )  # fmt: skip
    await schema_driver.pool.run(client_heartbeat(heartbeat, started_at=None))
    for kind in ("gone", "push"):
        await insert_job(schema_driver.pool, queue="crm", kind=kind)
    await schema_driver.pool.run(limited_job_collect("crm"))

    result = await millhand("limit", "show", "crm")

    assert result.code == 0
    assert "no client of queue 'crm' works kind 'gone'; add a worker" in result.err
