"""Inserts of args with secret fields: what is encrypted, and which jobs are duplicates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import pytest
from language_values import NOW

from millhand.core.args.codec import RawArgs
from millhand.core.args.secret_fields import SECRET_KEY, Secret, decrypt_args
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.errors import InvalidJob, InvalidSecret
from millhand.core.insert_opts import InsertOpts, InsertParams, SecretArgs, insert_params_many
from millhand.core.schedule import JobSchedule, encode_schedule
from millhand.core.unique import Unique, UniqueOpts

OLD, NEW, UNIQUE = b"o" * 32, b"n" * 32, b"u" * 32
BEFORE = SecretKeys({"old": OLD}, unique_key=UNIQUE)
AFTER = SecretKeys({"new": NEW, "old": OLD}, unique_key=UNIQUE)


@dataclass(frozen=True)
class Card:
    number: str
    owner: str = ""


@dataclass(frozen=True)
class Charge:
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[Card, Secret]
    note: str = ""


@dataclass(frozen=True)
class ByCard:
    kind: ClassVar[str] = "by_card"
    order: int
    card: Annotated[str, Secret, Unique]


@dataclass(frozen=True)
class Plain:
    kind: ClassVar[str] = "plain"
    order: int


def insert(args: Any, by_args: Any = None, keys: SecretKeys | None = AFTER) -> InsertParams:
    opts = None if by_args is None else InsertOpts(unique=UniqueOpts(by_args=by_args))
    [params] = insert_params_many([(args, opts)], now=NOW, secrets=SecretArgs(keys))
    return params


def test_secret_fields_are_encrypted_in_each_form_of_insert() -> None:
    """One job, a batch of one class, and a mixed batch: no text has the plain value, and other kinds stay as they are."""
    batches = [
        [Charge(1, Card("4111"))],
        [Charge(1, Card("4111")), Charge(2, Card("4111"))],
        [Plain(1), Charge(1, Card("4111")), Plain(2)],
    ]

    for batch in batches:
        many = insert_params_many([(one, None) for one in batch], now=NOW, secrets=SecretArgs(AFTER))
        for args, params in zip(batch, many, strict=True):
            if isinstance(args, Charge):
                assert "4111" not in params.encoded_args
                plain = decrypt_args(params.encoded_args, ["card"], "charge", AFTER)
                assert plain == f'{{"order":{args.order},"card":{{"number":"4111","owner":""}},"note":""}}'
            else:
                assert params.encoded_args == f'{{"order":{args.order}}}'


def test_insert_without_keys_is_refused() -> None:
    """A client that has no keys cannot insert a secret as plain text by mistake."""
    with pytest.raises(InvalidSecret) as caught:
        insert(Charge(1, Card("4111")), keys=None)

    assert str(caught.value) == (
        "secret field 'card' of kind 'charge' needs keys, got none; set Config(secret_keys=SecretKeys(…))"
    )


def test_raw_args_of_a_known_kind_are_encrypted() -> None:
    """Args without a class get the secret fields of the worker of their kind; those of unknown kinds stay as they are."""
    secrets = SecretArgs(AFTER, {"charge": ("card",)})
    raw = [RawArgs("charge", '{"card":"4111","order":1}'), RawArgs("other", '{"card":"4111"}')]

    known, unknown = insert_params_many([(one, None) for one in raw], now=NOW, secrets=secrets)

    assert list(json.loads(known.encoded_args)["card"]) == [SECRET_KEY]
    assert unknown.encoded_args == '{"card":"4111"}'


@pytest.mark.parametrize("by_args", [True, ["card"], ["order", "card"]])
def test_equal_secrets_are_duplicates_under_each_key(by_args: Any) -> None:
    """A rotation of the keys does not change unique keys, and a key is not the hash of the plain args."""
    keys = {
        insert(Charge(1, Card("4111")), by_args, secret_keys).unique_key for secret_keys in (BEFORE, AFTER)
    }
    [key] = keys
    guess = insert_params_many(
        [(RawArgs("charge", '{"order":1,"card":{"number":"4111","owner":""},"note":""}'), _unique(by_args))],
        now=NOW,
    )

    assert insert(Charge(1, Card("4112")), by_args).unique_key != key
    assert guess[0].unique_key != key


def _unique(by_args: Any) -> InsertOpts:
    return InsertOpts(unique=UniqueOpts(by_args=by_args))


def test_unique_fields_that_are_not_secret_need_no_unique_key() -> None:
    """The key of a job that is unique by its plain fields is River's, so Go's clients have the same."""
    keys = SecretKeys({"new": NEW})
    params = insert(Charge(1, Card("4111")), ["order", "note"], keys)
    [river] = insert_params_many(
        [(RawArgs("charge", '{"order":1,"note":""}'), _unique(["order", "note"]))], now=NOW
    )

    assert params.unique_key == river.unique_key
    with pytest.raises(InvalidSecret, match=r"unique by secret field 'card' needs a unique_key, got none"):
        insert(Charge(1, Card("4111")), True, keys)
    with pytest.raises(InvalidSecret, match=r"unique by secret field 'card' needs a unique_key, got none"):
        insert(ByCard(1, "4111"), True, keys)


def test_field_marked_as_secret_and_unique_decides_alone() -> None:
    """`Annotated[str, Secret, Unique]`: jobs with the same secret are duplicates, whatever their other fields are."""
    first, same, other = (insert(ByCard(order, card), True) for order, card in ((1, "a"), (2, "a"), (1, "b")))

    assert first.unique_key == same.unique_key != other.unique_key


def test_part_of_a_secret_field_cannot_be_unique() -> None:
    """Parts of an encrypted value cannot be compared, and without this error all jobs would be duplicates."""
    with pytest.raises(InvalidJob) as caught:
        insert(Charge(1, Card("4111")), ["card.number"])

    assert str(caught.value) == (
        "by_args must name a secret field as a whole, got 'card.number' of kind 'charge'; write 'card'"
    )


def test_kept_schedule_has_no_secret_fields() -> None:
    """Its table keeps args for years, and no rekey reaches them."""
    with pytest.raises(InvalidJob) as caught:
        encode_schedule(JobSchedule(id="nightly", args=Charge(1, Card("4111")), cron="@daily"))

    assert str(caught.value) == (
        "args of schedule 'nightly' must have no secret fields, got card: its table keeps args as they are; use a periodic "
        "job, whose args are in your code"
    )
