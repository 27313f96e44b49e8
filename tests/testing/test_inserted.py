"""Assertions of inserted jobs."""

from __future__ import annotations

import asyncpg
import pytest
from sample_jobs import Act, resize, workers

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.engine.store.job_list import LIMIT_MAX
from millhand.testing import require_inserted, require_many_inserted, require_not_inserted


async def test_require_inserted_takes_kind_class_function_or_args(
    client: Client, tx: asyncpg.Connection
) -> None:
    """The matching row is returned, and only the named columns are compared."""
    await client.insert(Act("x"), InsertOpts(queue="mail", tags=["abc"], priority=2), tx=tx)
    await client.insert(resize.args("a.png", width=80), tx=tx)

    by_class = await require_inserted(client, Act, tx=tx, queue="mail", tags=["abc"], priority=2)
    by_kind = await require_inserted(client, "act", tx=tx, state=JobState.AVAILABLE)
    by_args = await require_inserted(client, Act("x"), tx=tx)
    by_function = await require_inserted(client, resize, tx=tx, args={"key": "a.png", "width": 80})

    assert by_class == by_kind == by_args
    assert (by_class.args, by_function.kind) == ({"what": "x"}, "resize")


async def test_require_inserted_shows_what_exists_instead(client: Client, tx: asyncpg.Connection) -> None:
    """Without a match, or with several, the error shows the existing jobs, the nearest first."""
    with pytest.raises(
        AssertionError, match=r"^one job 'act' must be inserted, got none of that kind, and no others$"
    ):
        await require_inserted(client, Act, tx=tx)
    await client.insert(resize.args("a.png", width=80), tx=tx)
    with pytest.raises(AssertionError, match=r"got none of that kind; there are 1 of 'resize'$"):
        await require_inserted(client, Act, tx=tx)
    far = await client.insert(Act("x" * 90 + "far" + "x" * 90), tx=tx)
    near = await client.insert(Act("y"), InsertOpts(queue="mail", tags=["abc"]), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_inserted(client, Act("x" * 90 + "near"), tx=tx, queue="mail", tags=["abc"])

    long = f'"{"x" * 90}far{"x" * 6}…'
    assert str(raised.value) == (
        f"""one job 'act' args={{"what": "{"x" * 90}… queue="mail" tags=["abc"] must be inserted, got 2 of that kind """
        f"""that are not so, nearest first:
  job {near.job.id}, 'act' {{"what": "y"}}, available in queue 'mail'
      args.what: wanted "{"x" * 90}near", got "y"
  job {far.job.id}, 'act' {{"what": {long[:-10]}…, available in queue 'default'
      args.what: wanted …{"x" * 20}near", got …{"x" * 20}far{"x" * 77}…
      queue: wanted "mail", got "default"
      tags: wanted ["abc"], got []"""
    )
    await client.insert(Act("y"), tx=tx)
    with pytest.raises(
        AssertionError,
        match=r"""^one job 'act' args={"what": "y"} must be inserted, got 2:\n  job \d+, .*\n  job \d+, .*'$""",
    ):
        await require_inserted(client, Act("y"), tx=tx)


@pytest.mark.slow
async def test_require_inserted_reads_every_page(client: Client, tx: asyncpg.Connection) -> None:
    """A job that follows more than a page of others is found."""
    await client.insert_many_fast((Act("x") for _ in range(LIMIT_MAX)), tx=tx)
    last = (await client.insert(Act("y"), tx=tx)).job

    assert await require_inserted(client, Act("y"), tx=tx) == last
    with pytest.raises(
        AssertionError, match=r"^no job 'act' args=\{\"what\": \"y\"\} must be inserted, got 1:"
    ):
        await require_not_inserted(client, Act("y"), tx=tx)


async def test_require_not_inserted_shows_the_job(client: Client, tx: asyncpg.Connection) -> None:
    """Other jobs of the kind do not matter; the matching one is shown."""
    job = (await client.insert(Act("x"), tx=tx)).job
    await require_not_inserted(client, resize, tx=tx)
    await require_not_inserted(client, Act, tx=tx, queue="mail")
    await require_not_inserted(client, Act("y"), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_not_inserted(client, Act, tx=tx, queue="default", state=JobState.AVAILABLE)

    assert str(raised.value) == (
        f"""no job 'act' queue="default" state=available must be inserted, got 1:
  job {job.id}, 'act' {{"what": "x"}}, available in queue 'default'"""
    )


async def test_require_many_inserted_compares_the_order(client: Client, tx: asyncpg.Connection) -> None:
    """The jobs of the named kinds must be the expected ones, in the order of their inserts; else both are shown."""
    await client.insert_many([Act("x"), resize.args("a.png", width=80), Act("y")], tx=tx)

    found = await require_many_inserted(client, Act("x"), resize, "act", tx=tx)

    assert [job.kind for job in found] == ["act", "resize", "act"]
    first, second, third = (job.id for job in found)
    for wrong in ((Act, resize), (Act, Act, resize)):
        with pytest.raises(AssertionError, match=r"must be inserted, in this order, got 3 of their kinds;"):
            await require_many_inserted(client, *wrong, tx=tx)
    with pytest.raises(AssertionError) as raised:
        await require_many_inserted(client, Act("z"), Act("y"), resize, tx=tx)
    assert str(raised.value) == (
        f"""3 jobs must be inserted, in this order, got 3 of their kinds; - is missing, + is not wanted, ! is different:
- 'act' args={{"what": "z"}}
! job {first}, 'act' {{"what": "x"}}, available in queue 'default'
      args.what: wanted "y", got "x"
  job {second}, 'resize' {{"key": "a.png", "width": 80}}, available in queue 'default'
+ job {third}, 'act' {{"what": "y"}}, available in queue 'default'"""
    )


async def test_require_inserted_rejects_an_unknown_column(client: Client, tx: asyncpg.Connection) -> None:
    """A misspelt column raises."""
    with pytest.raises(ConfigError, match=r"^what is expected of a job must be among args, .*, got 'quue'$"):
        await require_inserted(client, Act, tx=tx, quue="mail")


async def test_require_inserted_works_without_a_transaction(committed_url: str) -> None:
    """Jobs that a started client has committed are found."""
    async with Client(committed_url, Config(workers=workers)) as client:
        await client.insert(Act("x"))

        job = await require_inserted(client, Act)

    assert job.args == {"what": "x"}
