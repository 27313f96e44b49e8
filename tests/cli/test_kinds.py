"""Claims about `millhand kinds`."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import psycopg
import pytest
from cli_room import millhand

from factory import insert_job, qualified
from millhand.cli import kinds_check
from millhand.cli.worked import WorkedArgs
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.job import FINALIZED_STATES, JobState
from odd_rows import ODD, UNDECODABLE

SHOP = """\
import enum
from dataclasses import dataclass
from datetime import date
from typing import ClassVar

import msgspec
import pydantic

from millhand import Config, Job, Workers

workers = Workers()


class Size(enum.Enum):
    SMALL = "s"


@dataclass
class Order:
    kind: ClassVar[str] = "order"
    number: int
    day: date | None = None
    size: Size = Size.SMALL

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"no such number: {self.number}")


class Mail(pydantic.BaseModel):
    kind: ClassVar[str] = "mail"
    to: dict[str, int]
    why: str = ""

    @pydantic.field_validator("why")
    @classmethod
    def check(cls, why: str) -> str:
        if why == "secret":
            raise ValueError(f"not {why}")
        if why == "KeyError":
            raise KeyError(why)
        return why


@workers.add(aliases=["old_order"])
async def order(job: Job[Order]) -> None: ...


@workers.add()
async def mail(job: Job[Mail]) -> None: ...


@workers.add()
def resize(keys: list[str], width: int = 640) -> None: ...


config = Config(workers=workers, queues={"default": 1})
"""


@pytest.fixture
def shop(elsewhere: Path) -> str:
    """A configuration of a user's, as a command names it."""
    name = f"shop_{secrets.token_hex(6)}"
    (elsewhere / f"{name}.py").write_text(SHOP)
    return f"{name}:config"


async def test_kinds_are_listed_with_their_schemas(shop: str) -> None:
    """MODULE:CONFIG alone lists; a pipe and `--json` get each schema whole; what has a default is not required."""
    module = shop.partition(":")[0]

    lines = (await millhand("kinds", shop)).lines
    listed = await millhand("kinds", "list", shop, "--json")

    assert [line[:3] for line in lines] == [
        ["mail", "", f"{module}.mail"],
        ["order", "old_order", f"{module}.order"],
        ["resize", "", f"{module}.resize"],
    ]
    assert [json.loads(line[3]) for line in lines] == [one["schema"] for one in listed.json]
    order = listed.json[1]["schema"]["$defs"]["Order"]
    assert (order["required"], order["properties"]["day"]) == (
        ["number"],
        {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
    )
    assert (listed.code, listed.err, listed.json[0]["schema"]["required"]) == (0, "", ["to"])


async def test_kinds_are_listed_for_a_person(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a schema is told in short."""
    monkeypatch.setattr("millhand.cli.kinds.is_terminal", lambda: True)

    lines = (await millhand("kinds", shop)).lines

    module = shop.partition(":")[0]
    assert lines == [
        ["mail(to: object, why?: string)"],
        [f"    {module}.mail"],
        ["order(number: integer, day?: date | null, size?: Size)"],
        [f"    {module}.order, also old_order"],
        ["resize(keys: string[], width?: integer)"],
        [f"    {module}.resize"],
    ]


async def test_kinds_of_built_in_jobs_are_there_where_they_run(shop: str, elsewhere: Path) -> None:
    """As a worker, the command counts those built-in jobs whose section has a setting."""
    (elsewhere / "millhand.toml").write_text('[heartbeat]\ninterval = "30s"\n[orphans]\nenabled = true\n')

    lines = (await millhand("kinds", shop)).lines

    assert [line[0] for line in lines] == [
        "heartbeat",
        "mail",
        "order",
        "orphan_cleanup",
        "resize",
    ]


async def test_check_finds_nothing_where_all_can_be_worked(
    shop: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """Aliases count, defaults fill in, what is finished is of no account; nothing is written."""
    for state in JobState:
        await insert_job(schema_driver.pool, state, kind="old_order", args='{"number": 1, "more": 2}')
        if state in FINALIZED_STATES:
            await insert_job(schema_driver.pool, state, kind="gone")
    before = await _rows(schema_driver)

    checked = await millhand("kinds", "check", shop)
    as_json = await millhand("kinds", "check", shop, "--json")

    assert (checked.code, checked.out, checked.err) == (0, "", "read 5 queued jobs of 1 kind\n")
    assert as_json.json == {"jobs": 5, "kinds": 1, "is_cut": False, "findings": []}
    assert await _rows(schema_driver) == before


async def test_check_finds_what_could_not_be_worked(
    shop: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """Kinds without a worker and args that do not decode: how many, the first id, and why without any value."""
    pool = schema_driver.pool
    jobs = [
        ("ordre", '{"secret": 1}'),
        ("order", '{"number": "secret"}'),
        ("order", '{"number": 7}'),
        ("order", "{}"),
        ("order", "{}"),
        ("order", '{"number": 1, "size": "secret"}'),
        ("order", '{"number": -5}'),
        ("mail", '{"to": {"secret": "x"}}'),
        ("mail", '{"to": {}, "why": "secret"}'),
        ("mail", '{"to": {}, "why": "KeyError"}'),
        ("go_report", '{"at": "secret"}'),
    ]
    ids = [(await insert_job(pool, kind=kind, args=args)).id for kind, args in jobs]

    found = await millhand("kinds", "check", shop, "--elsewhere", "go_report")
    as_json = await millhand("kinds", "check", shop, "--json")

    assert found.code == as_json.code == 1
    assert found.lines == [
        ["mail", "args", "1", str(ids[9]), "refused with KeyError"],
        [
            "mail",
            "args",
            "1",
            str(ids[7]),
            "to[...]: Input should be a valid integer, unable to parse string as an integer",
        ],
        ["mail", "args", "1", str(ids[8]), "why: refused as value_error"],
        ["order", "args", "2", str(ids[3]), "Object missing required field `number`"],
        ["order", "args", "1", str(ids[1]), "Expected `int`, got `str` - at `$.number`"],
        ["order", "args", "1", str(ids[5]), "Invalid enum value - at `$.size`"],
        ["order", "args", "1", str(ids[6]), "refused by its class with ValueError"],
        ["ordre", "no worker", "1", str(ids[0]), "no worker is registered; did you mean 'order'?"],
    ]
    assert found.err == (
        "read 10 queued jobs of 3 kinds\n"
        "error: queued jobs must be workable, got 9 that are not; keep their workers until they are done, name former "
        "kinds in aliases=[…], give new fields a default\n"
    )
    assert as_json.json["findings"][0] == {
        "kind": "go_report",
        "problem": "no worker",
        "jobs": 1,
        "example_id": ids[10],
        "message": "no worker is registered; known: 'mail', 'old_order', 'order', 'resize'",
    }
    assert "secret" not in found.out + found.err + as_json.out + as_json.err


async def test_check_tells_a_person(
    shop: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal each finding is a sentence, and nothing in it moves the cursor."""
    monkeypatch.setattr("millhand.cli.kinds.is_terminal", lambda: True)
    job = await insert_job(schema_driver.pool, kind="gone\x1b[2J\n")

    found = await millhand("kinds", "check", shop)

    known = "'mail', 'old_order', 'order', 'resize'"
    assert found.out == f"gone [2J : 1 job, such as {job.id}: no worker is registered; known: {known}\n"


async def test_check_reads_page_by_page(
    shop: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job is read once, whatever shares its place in the order; a queue may be named, and a limit set."""
    monkeypatch.setattr(kinds_check, "PAGE", 3)
    sql = """
        INSERT INTO /* schema */river_job (args, kind, max_attempts, state, queue, priority, scheduled_at)
        SELECT '{}', 'gone', 25, state::/* schema */river_job_state, 'queue_' || n % 3, 1 + n % 2, now()
        FROM generate_series(1, 20) AS n, unnest(ARRAY['available', 'retryable']) AS state
    """
    await schema_driver.pool.fetch(qualified(sql, schema_driver.pool))

    whole = await millhand("kinds", "check", shop, "--json")
    some = await millhand("kinds", "check", shop, "--json", "--queue", "queue_0", "--queue", "queue_2")
    limited = await millhand("kinds", "check", shop, "--json", "--limit", "7")
    told = await millhand("kinds", "check", shop, "--limit", "7")
    exact = await millhand("kinds", "check", shop, "--json", "--limit", "20")

    assert [(one.json["jobs"], one.json["is_cut"]) for one in (whole, some, limited, exact)] == [
        (40, False),
        (26, False),
        (14, True),
        (40, False),
    ]
    assert "read 14 queued jobs of 1 kind; there are more, but for --limit\n" in told.err


async def test_check_does_not_remember_every_fault(
    shop: str, project: Path, schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sorts of faults there are, so many are told, and the rest is counted."""
    monkeypatch.setattr(kinds_check, "FAULTS_MAX", 1)
    for args in ("{}", '{"number": "a"}', '{"number": 1, "day": 2}'):
        await insert_job(schema_driver.pool, kind="order", args=args)

    found = await millhand("kinds", "check", shop)

    assert [line[2:5:2] for line in found.lines] == [
        ["2", "refused in further ways"],
        ["1", "Object missing required field `number`"],
    ]


async def test_check_survives_whatever_is_in_the_table(
    shop: str, project: Path, schema_driver: AsyncpgDriver
) -> None:
    """An odd row is read as any other, and counts as bad only if its args are."""
    pool = schema_driver.pool
    for odd in ODD.values():
        await insert_job(pool, kind="resize", args='{"keys": []}', metadata='{"odd": true}')
        sql = f"UPDATE /* schema */river_job SET {odd} WHERE metadata ->> 'odd' = 'true'"
        await pool.fetch(qualified(sql, pool))
        await pool.fetch(
            qualified(
                "UPDATE /* schema */river_job SET metadata = '{}' WHERE metadata ->> 'odd' = 'true'", pool
            )
        )

    found = (await millhand("kinds", "check", shop, "--json")).json

    by_problem: dict[str, int] = {}
    for one in found["findings"]:
        by_problem[one["problem"]] = by_problem.get(one["problem"], 0) + one["jobs"]
    assert found["jobs"] == len(ODD)
    assert by_problem == {"args": len(UNDECODABLE), "no worker": 1}


async def test_check_sees_one_instant(schema_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A job that goes from one state to the next while others are read is read once, and as it was."""
    pool = schema_driver.pool
    await insert_job(pool, JobState.AVAILABLE, kind="order")
    texts: list[str] = []

    def decode(text: str) -> None:
        texts.append(text)
        with psycopg.connect(postgres_url) as connection:
            connection.execute(
                qualified("UPDATE /* schema */river_job SET state = 'retryable', kind = 'x'", pool)
            )

    worked = WorkedArgs(args_type=object, decode=decode, kinds=("order", "x"), worker="order")
    report = await kinds_check.check_queued(pool, [worked])

    assert (report.num_jobs, texts, report.findings) == (1, ["{}"], [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "Missing argument 'MODULE:CONFIG'"),
        (["chek"], "No such command 'chek'"),
        (["nowhere:config"], "module 'nowhere' must be importable, found no 'nowhere' in"),
        (["check", "SHOP", "--limit", "0"], "Invalid value for '--limit'"),
        (
            ["check", "SHOP", "--elsewhere", "old_order"],
            "error: --elsewhere must name a kind that others work, got 'old_order', which SHOP works\n",
        ),
    ],
)
async def test_kinds_refuse_wrong_use(shop: str, project: Path, arguments: list[str], message: str) -> None:
    """What makes no sense ends with 2, and is told."""
    result = await millhand("kinds", *[shop if one == "SHOP" else one for one in arguments])

    assert result.code == 2
    assert message.replace("SHOP", shop) in result.err


async def _rows(driver: AsyncpgDriver) -> object:
    sql = "SELECT xmin::text, id FROM /* schema */river_job ORDER BY id"
    return await driver.pool.fetch(qualified(sql, driver.pool))
