"""Claims about `millhand args rekey`, and about secret args in other commands."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from cli_runner import millhand
from factory import get_job, insert_job
from millhand.core.args.secret_fields import SECRET_KEY, encrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver

OLD = SecretKeys({"old": b"o" * 32})
PLAIN = '{"order": 1, "card": "planted"}'
MODULE = """\
from typing import Annotated

from millhand import Config, Secret, SecretKeys, Workers

workers, plain_workers = Workers(), Workers()


@workers.add(aliases=["old_charge"])
def charge(order: int, card: Annotated[str, Secret]) -> None: ...


@plain_workers.add()
def mail(to: str) -> None: ...


config = Config(workers=workers, secret_keys=SecretKeys({"new": b"n" * 32, "old": b"o" * 32}))
newest = Config(workers=workers, secret_keys=SecretKeys({"new": b"n" * 32}))
keyless = Config(workers=workers)
plain = Config(workers=plain_workers, secret_keys=SecretKeys({"new": b"n" * 32}))
"""


@pytest.fixture
def module(project: Path) -> str:
    """Write a user's module, and return its name."""
    name = f"shop_{secrets.token_hex(6)}"
    (project / f"{name}.py").write_text(MODULE)
    return name


@pytest.mark.slow
async def test_rekey_says_when_the_older_key_can_be_removed(
    module: str, schema_driver: AsyncpgDriver
) -> None:
    """It fails while a running job has the older key, and ends with 0 once none has."""
    pool = schema_driver.pool
    jobs = [
        await insert_job(pool, state, kind=kind, args=encrypt_args(PLAIN, ["card"], kind, OLD))
        for state, kind in ((JobState.AVAILABLE, "charge"), (JobState.RUNNING, "old_charge"))
    ]

    first = await millhand("args", "rekey", f"{module}:config")
    await pool.fetch(
        f"UPDATE {schema_driver.schema}.river_job SET state = 'retryable' WHERE state = 'running'"
    )
    second = await millhand("args", "rekey", f"{module}:config", "--json")
    third = await millhand("args", "rekey", f"{module}:config")

    assert (first.code, first.out, first.err) == (
        1,
        "",
        (
            "encrypted 1 waiting job with key 'new'\n"
            "error: all jobs must have key 'new' before you remove an older one, got 1 that do not: 1 run, 0 do not decrypt"
            ", and other programs hold 0; repeat the command\n"
        ),
    )
    assert (second.code, second.json) == (0, {"rekeyed": 1, "left": 0, "running": 0, "unreadable": []})
    assert (third.code, third.err) == (0, "encrypted 0 waiting jobs with key 'new'\n")
    assert {(await get_job(pool, job.id)).args["card"][SECRET_KEY]["key"] for job in jobs} == {"new"}


async def test_rekey_names_the_jobs_that_do_not_decrypt(module: str, schema_driver: AsyncpgDriver) -> None:
    """The line has the kind, the number, an id and the missing key, and no args."""
    job = await insert_job(
        schema_driver.pool, kind="charge", args=encrypt_args(PLAIN, ["card"], "charge", OLD)
    )

    done = await millhand("args", "rekey", f"{module}:newest")

    assert done.code == 1
    assert (
        f"charge: 1 job, such as {job.id}: secret field 'card' of kind 'charge' must be encrypted with a known key, got key "
        "'old'; known: 'new'; add the key to SecretKeys\n"
    ) in done.err
    assert "planted" not in done.out + done.err


@pytest.mark.parametrize(
    ("name", "wanted"), [("keyless", "secret_keys"), ("plain", "a worker with a secret field")]
)
async def test_rekey_needs_keys_and_secret_fields(module: str, name: str, wanted: str) -> None:
    """The command refuses a configuration with nothing to do, which is probably the wrong one."""
    done = await millhand("args", "rekey", f"{module}:{name}")

    assert (done.code, done.err) == (
        2,
        f"error: {module}:{name} must have {wanted} to encrypt args with a key, got none\n",
    )


@pytest.mark.slow
async def test_check_before_a_deploy_finds_missing_keys(module: str, schema_driver: AsyncpgDriver) -> None:
    """`kinds check` and `doctor --deploy` decrypt what they can, and name the key that a release lacks."""
    pool = schema_driver.pool
    for kind in ("charge", "old_charge"):
        await insert_job(pool, kind=kind, args=encrypt_args(PLAIN, ["card"], kind, OLD))
    await insert_job(pool, kind="charge", args=PLAIN)

    works = await millhand("kinds", "check", f"{module}:config")
    lacks = await millhand("kinds", "check", f"{module}:newest")
    keyless = await millhand("kinds", "check", f"{module}:keyless")
    doctor = await millhand("doctor", "--deploy", f"{module}:newest", "--json")

    message = (
        "secret field 'card' of kind 'charge' must be encrypted with a known key, got key 'old'; known: 'new'; add the key "
        "to SecretKeys"
    )
    assert (works.code, works.out) == (0, "")
    assert [(line[0], line[1], line[2], line[4]) for line in lacks.lines] == [
        ("charge", "args", "1", message),
        ("old_charge", "args", "1", message.replace("'charge'", "'old_charge'")),
    ]
    assert "needs keys, got none; set Config(secret_keys=SecretKeys(…))" in keyless.out
    assert message in doctor.out.replace("\\u2026", "…")


@pytest.mark.slow
async def test_commands_show_what_the_table_has(module: str, schema_driver: AsyncpgDriver) -> None:
    """`job show` and `job list` have the opaque object in place of the value."""
    args = encrypt_args(PLAIN, ["card"], "charge", OLD)
    job = await insert_job(schema_driver.pool, kind="charge", args=args)

    shown = await millhand("job", "show", job.id, "--json")
    listed = await millhand("job", "list", "--json")

    assert list(shown.json["args"]["card"]) == list(listed.json[0]["args"]["card"]) == [SECRET_KEY]
    assert "planted" not in shown.out + listed.out
