"""Secret fields of args."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.core.args.codec import RawArgs, decoder_of, encode_args, encode_many
from millhand.core.args.secret_fields import (
    SECRET_KEY,
    Secret,
    decrypt_args,
    encrypt_args,
    reencrypt_args,
    secret_decoder,
    secret_field_names,
)
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.errors import InvalidJob, InvalidSecret
from millhand.core.worker import Workers
from millhand.core.worker_job import Job

T = TypeVar("T")

PLAIN = "4111-1111"
KEYS = SecretKeys({"new": b"n" * 32, "old": b"o" * 32})
OLD_KEYS = SecretKeys({"old": b"o" * 32})


@dataclass(frozen=True)
class Card:
    number: str


@dataclass(frozen=True)
class AsDataclass:
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[Card, Secret]
    note: Annotated[str, Secret] | None = None


class AsStruct(msgspec.Struct, rename="camel"):
    kind: ClassVar[str] = "charge"
    order: int
    card_data: Annotated[Card | None, Secret]


@attrs.frozen
class AsAttrs:
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[str, Secret()]


class AsModel(pydantic.BaseModel):
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[str, Secret] = pydantic.Field(alias="cardNumber")
    note: Annotated[str, Secret] | None = None


@pydantic.dataclasses.dataclass
class AsPydanticDataclass:
    kind: ClassVar[str] = "charge"
    order: int
    card: Annotated[str, Secret]


@dataclass
class AsGeneric(Generic[T]):
    kind: ClassVar[str] = "charge"
    order: T
    card: Annotated[str, Secret]


VALUES = [
    (AsDataclass(1, Card(PLAIN)), {"card", "note"}),
    (AsStruct(1, Card(PLAIN)), {"cardData"}),
    (AsAttrs(1, PLAIN), {"card"}),
    (AsModel(order=1, cardNumber=PLAIN), {"cardNumber", "note"}),
    (AsPydanticDataclass(1, PLAIN), {"card"}),
    (AsGeneric(1, PLAIN), {"card"}),
]


@pytest.mark.parametrize(("args", "names"), VALUES, ids=lambda one: type(one).__name__)
def test_marked_fields_are_encrypted_and_come_back(args: Any, names: set[str]) -> None:
    """For each kind of class, exactly the marked fields are opaque objects, and the worker's value is the inserted one."""
    encoded = encrypt_args(encode_args(args), secret_field_names(type(args)), "charge", KEYS)
    document = json.loads(encoded)
    decode = secret_decoder(decoder_of(type(args), "charge"), type(args), "charge", KEYS)

    assert set(secret_field_names(type(args))) == names
    assert document["order"] == 1
    assert {name: list(document[name]) for name in names} == {name: [SECRET_KEY] for name in names}
    assert {document[name][SECRET_KEY]["key"] for name in names} == {"new"}
    assert PLAIN not in encoded
    assert decode(json.dumps(document)) == args  # in PostgreSQL's form, with blanks
    assert encode_many([args, args]) is None  # the batch encoder would leave the fields plain


def test_generic_class_with_parameters_has_its_secret_fields() -> None:
    """A worker of `Job[AsGeneric[int]]` decrypts what an insert of AsGeneric encrypted."""
    assert secret_field_names(AsGeneric[int]) == ("card",)


class InTypedDict(TypedDict):
    card: Annotated[str, Secret]


class InTuple(NamedTuple):
    card: Annotated[str, Secret]


class InStruct(msgspec.Struct):
    card: Annotated[str, Secret]
    again: InStruct | None = None


@pytest.mark.parametrize(
    "hint",
    [
        InStruct,
        InStruct | None,
        list[InStruct],
        dict[str, list[InTuple]],
        InTypedDict,
        list[Annotated[str, Secret]],
        dict[str, Annotated[str, Secret] | None],
        Annotated[list[Annotated[str, Secret]], msgspec.Meta(min_length=1)],
    ],
    ids=str,
)
def test_mark_within_a_field_is_an_error(hint: Any) -> None:
    """A mark that would encrypt nothing is refused, wherever it stands, and the error says where to write it."""
    cls = msgspec.defstruct("Charge", [("order", int), ("payment", hint)], namespace={"kind": "charge"})

    with pytest.raises(InvalidJob) as caught:
        secret_field_names(cls)

    assert str(caught.value) == (
        "Secret must mark a field of args class Charge itself, got a mark within 'payment'; write "
        "payment: Annotated[…, Secret]"
    )


def test_class_without_marks_keeps_its_decoder() -> None:
    """A kind without secret fields is decoded by the same function as without this feature."""
    decode = decoder_of(Card, "card")

    assert secret_decoder(decode, Card, "card", KEYS) is decode
    assert secret_field_names(RawArgs) == secret_field_names(int) == secret_field_names(Any) == ()


def test_plain_values_are_decoded_too() -> None:
    """A job from before the mark, or of a program without keys, is worked; no keys are needed for it."""
    decode = secret_decoder(decoder_of(AsDataclass, "charge"), AsDataclass, "charge", None)

    assert decode(f'{{"order": 1, "card": {{"number": "{PLAIN}"}}}}') == AsDataclass(1, Card(PLAIN))


def sealed(value: object) -> str:
    return json.dumps({"order": 1, "card": {SECRET_KEY: value}})


NOT_SEALED = "secret field 'card' of kind 'charge' must hold a key id and data, got another object; insert the job again"


@pytest.mark.parametrize(
    ("encoded", "keys", "message"),
    [
        (
            encrypt_args('{"card":"1"}', ["card"], "charge", KEYS),
            None,
            "secret field 'card' of kind 'charge' needs keys, got none; set Config(secret_keys=SecretKeys(…))",
        ),
        (sealed(7), KEYS, NOT_SEALED),
        (sealed({"key": "new"}), KEYS, NOT_SEALED),
        (sealed({"key": "new", "data": "", "more": 1}), KEYS, NOT_SEALED),
        (
            sealed({"key": "new", "data": "AAAA"}),
            KEYS,
            (
                "secret field 'card' of kind 'charge' must decrypt with key 'new', got a text that was changed, or made "
                "with another key, or for another kind or field; check the key"
            ),
        ),
    ],
    ids=["no keys", "number", "no data", "more", "short"],
)
def test_value_that_does_not_decrypt_is_an_error(encoded: str, keys: SecretKeys | None, message: str) -> None:
    """The error of the attempt names field and kind, and says what to do."""
    decode = secret_decoder(decoder_of(AsDataclass, "charge"), AsDataclass, "charge", keys)

    with pytest.raises(InvalidSecret) as caught:
        decode(encoded)

    assert str(caught.value) == message


@dataclass(frozen=True)
class Strict:
    """A class whose own error repeats the value."""

    kind: ClassVar[str] = "strict"
    card: Annotated[str, Secret]
    order: int = 0

    def __post_init__(self) -> None:
        if self.card == PLAIN:
            raise ValueError(f"no such card: {self.card}")


def _of_decoder(card: str, order: object) -> None:
    text = json.dumps({"card": card, "order": order})
    encoded = encrypt_args(text, ["card"], "strict", KEYS)
    secret_decoder(decoder_of(Strict, "strict"), Strict, "strict", KEYS)(encoded)


def _of_insert(card: str, order: object) -> None:
    args = Strict("other")
    object.__setattr__(args, "card", card)
    object.__setattr__(args, "order", order)
    encode_args(args)


@pytest.mark.parametrize(
    ("call", "card", "order"),
    [
        (_of_decoder, PLAIN, 1),
        (_of_decoder, f"{PLAIN}!", PLAIN),
        (_of_insert, PLAIN, 1),
        (_of_insert, f"{PLAIN}!", PLAIN),
        (_of_insert, f"{PLAIN}\0", 1),
        (_of_insert, f"{PLAIN}\ud800", 1),
        (_of_insert, "other", {PLAIN: object()}),
    ],
)
def test_error_of_a_class_with_secret_fields_shows_no_value(
    call: Callable[[str, object], None], card: str, order: object
) -> None:
    """Neither the text nor the chain of an error has a value, not even of the class's own error."""
    with pytest.raises(InvalidJob) as caught:
        call(card, order)

    assert PLAIN not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_reencrypt_replaces_older_keys_and_plain_values_only() -> None:
    """A row whose fields have the newest key is left alone; others get it, and their plain text stays."""
    plain = '{"order": 1, "card": {"number": "1"}, "note": "n"}'
    names = ("card", "note")
    newest = encrypt_args(plain, names, "charge", KEYS)
    older = encrypt_args(plain, names, "charge", OLD_KEYS)
    half = encrypt_args(encrypt_args(plain, ["card"], "charge", KEYS), ["note"], "charge", OLD_KEYS)

    assert reencrypt_args(newest, names, "charge", KEYS) is None
    assert reencrypt_args('{"order": 1}', names, "charge", KEYS) is None
    for text in (plain, older, half):
        changed = reencrypt_args(text, names, "charge", KEYS)
        assert changed is not None
        assert reencrypt_args(changed, names, "charge", KEYS) is None
        assert json.loads(decrypt_args(changed, names, "charge", KEYS)) == json.loads(plain)
    with pytest.raises(InvalidSecret, match=r"got key 'new'; known: 'old'"):
        reencrypt_args(newest, names, "charge", OLD_KEYS)


def test_encrypted_values_of_raw_args_stay() -> None:
    """A copy of a row, as the web page inserts it, keeps its encrypted values; a plain value is encrypted."""
    once = encrypt_args('{"card":"1","note":"n"}', ["card"], "charge", KEYS)
    again = encrypt_args(once, ["card", "note"], "charge", KEYS, keeps_encrypted=True)

    assert json.loads(again)["card"] == json.loads(once)["card"]
    assert json.loads(decrypt_args(again, ["card", "note"], "charge", KEYS)) == {"card": "1", "note": "n"}


@dataclass(frozen=True)
class AnyValue:
    kind: ClassVar[str] = "any"
    value: Annotated[Any, Secret] = None
    plain: Any = field(default=None)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "<ü>", SECRET_KEY]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(value=JSON_VALUES, plain=JSON_VALUES)
def test_any_value_comes_back(value: Any, plain: Any) -> None:
    """Whatever JSON a secret field and its neighbour hold, also what looks like an encrypted value, comes back the same."""
    args = AnyValue(value, plain)
    encoded = encrypt_args(encode_args(args), ["value"], "any", KEYS)

    assert decrypt_args(encoded, ["value"], "any", KEYS) == encode_args(args)


class WithKind(pydantic.BaseModel):
    kind: ClassVar[str] = "charge"


class LastDigits(pydantic.Secret[str]):
    """A secret of pydantic that chooses its mask itself."""

    def _display(self) -> str:
        return f"…{self.get_secret_value()[-2:]}"


HIDDEN = [
    (pydantic.SecretStr, pydantic.SecretStr(PLAIN)),
    (pydantic.SecretBytes, pydantic.SecretBytes(PLAIN.encode())),
    (pydantic.Secret[str], pydantic.Secret[str](PLAIN)),
    (pydantic.Secret[int], pydantic.Secret[int](4111)),
    (LastDigits, LastDigits(PLAIN)),
]


def is_written(value: object) -> bool:
    """Return whether pydantic writes a secret that may be of any type; its older versions raise."""
    try:
        pydantic.TypeAdapter(Any).dump_python(value, mode="json")
    except pydantic_core.PydanticSerializationError:
        return False
    return True


@pytest.mark.parametrize("is_marked", [False, True], ids=["plain", "marked"])
@pytest.mark.parametrize(
    ("hint", "value", "place"),
    [(*one, place) for one in HIDDEN for place in ("field", "nested")]
    + [(*one, "any") for one in HIDDEN[:-1]],
    ids=lambda one: one if isinstance(one, str) else getattr(one, "__name__", ""),
)
def test_value_that_pydantic_would_write_as_asterisks_is_refused(
    hint: Any, value: Any, place: str, is_marked: bool
) -> None:
    """A secret of pydantic, wherever it stands, is an error at the insert that says what to write, and is not lost."""
    if place == "nested":
        inner = pydantic.create_model("Inner", token=(hint | None, None))
        hint, value = dict[str, list[inner]], {"a": [inner(), inner(token=value)]}  # type: ignore[valid-type]
    elif place == "any":
        hint, value = Any, {"token": value}
    marked: Any = Annotated[hint, Secret] if is_marked else hint
    cls = pydantic.create_model("Charge", __base__=WithKind, token=(marked, ...))

    if place == "any" and not is_written(value):  # pydantic refuses it itself
        with pytest.raises(InvalidJob):
            encode_args(cls(token=value))
        return
    with pytest.raises(InvalidSecret) as caught:
        encode_args(cls(token=value))

    assert re.fullmatch(
        r"args of kind 'charge' must be written with their values, got a (Secret|SecretStr|SecretBytes|LastDigits), which "
        r"pydantic writes as asterisks; write Annotated\[str, Secret\], or a field_serializer that returns the value",
        str(caught.value),
    )


class Written(WithKind):
    token: Annotated[pydantic.SecretStr, Secret]
    empty: pydantic.SecretStr = pydantic.SecretStr("")
    other: pydantic.SecretStr | None = None

    @pydantic.field_serializer("token", when_used="json")
    def write(self, token: pydantic.SecretStr) -> str:
        return token.get_secret_value()


class Asterisks(WithKind):
    text: str = "**********"


@pytest.mark.slow
def test_secret_of_pydantic_that_is_written_with_its_value_comes_back() -> None:
    """A model whose serializer writes the value is inserted, and encrypted; a text of asterisks is a text."""
    args = Written(token=pydantic.SecretStr(PLAIN))
    encoded = encrypt_args(encode_args(args), secret_field_names(Written), "charge", KEYS)
    decode = secret_decoder(decoder_of(Written, "charge"), Written, "charge", KEYS)

    assert PLAIN not in encoded
    assert decode(encoded) == args
    assert json.loads(encode_args(Asterisks())) == {"text": "**********"}


def test_worker_reads_a_plain_text_as_a_secret_of_pydantic() -> None:
    """A worker of a kind that other programs insert may keep the value out of its logs."""
    workers = Workers()
    cls = pydantic.create_model("Charge", __base__=WithKind, token=(pydantic.SecretStr, ...))

    async def charge(job: Any) -> None: ...

    charge.__annotations__["job"] = Job[cls]  # type: ignore[valid-type]
    workers.add()(charge)
    decoded = decoder_of(cls, "charge")(f'{{"token": "{PLAIN}"}}')

    assert decoded.token.get_secret_value() == PLAIN


class Renaming(WithKind):
    card: Annotated[str, Secret]
    note: Annotated[str, Secret] | None = None
    excluded: Annotated[str, Secret] = pydantic.Field("", exclude=True)

    @pydantic.model_serializer(mode="wrap")
    def write(self, write: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        written = {name: value for name, value in write(self).items() if value is not None}
        if self.card == PLAIN:
            written["number"] = written.pop("card")
        return written


def test_marked_field_that_a_model_writes_under_another_name_is_refused() -> None:
    """A model_serializer that renames a marked field would leave it plain; one that leaves out None does not."""
    with pytest.raises(InvalidSecret) as caught:
        encode_args(Renaming(card=PLAIN))

    assert str(caught.value) == (
        "args of kind 'charge' must have secret field 'card' in the JSON, got none: under another name its value would "
        "stay plain; write an alias in place of a model_serializer"
    )
    assert json.loads(encode_args(Renaming(card="other", excluded="x"))) == {"card": "other"}
