"""Secret args in a fleet of two languages: a Go worker sees an opaque object in place of a secret field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from interop_harness import Harness

from millhand.client import Client
from millhand.core.args.secret_fields import SECRET_KEY, Secret
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.config import Config
from millhand.core.insert_opts import InsertOpts

KEYS = SecretKeys({"new": b"n" * 32})
ONCE = InsertOpts(max_attempts=1)


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    card: Annotated[str, Secret]
    do: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class SecretAct:
    kind: ClassVar[str] = "act"
    do: Annotated[list[Any], Secret]


async def test_go_worker_works_the_plain_fields_and_cannot_read_a_secret_one(harness: Harness) -> None:
    """A struct without the secret field works; one that wants its plain type fails with an error of Go's decoder."""
    async with (
        Client(harness.url, Config(schema=harness.schema, secret_keys=KEYS)) as client,
        harness.working("go"),
    ):
        plain = await client.insert(Act("4111"))
        secret = await client.insert(SecretAct([]), ONCE)
        worked = await harness.until_state(plain.job.id, "completed")
        failed = await harness.until_state(secret.job.id, "discarded")

    assert list(worked["args"]["card"]) == [SECRET_KEY]
    assert "cannot unmarshal object into Go struct field" in failed["errors"][0]["error"]
