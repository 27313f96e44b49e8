"""The keys of secret args."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest

from millhand.core.args.secret_keys import SecretKeys
from millhand.core.errors import ConfigError, InvalidSecret

OLD, NEW, UNIQUE = b"o" * 32, b"n" * 32, b"u" * 32
PLACE = {"kind": "charge", "field": "card"}


def test_first_key_encrypts_and_each_key_decrypts() -> None:
    """After a rotation, a text of either key decrypts, and no two texts of one value are equal."""
    before = SecretKeys({"old": OLD})
    after = SecretKeys({"new": NEW, "old": base64.b64encode(OLD).decode()})
    texts = {"old": before.encrypt(b"4111", **PLACE), "new": after.encrypt(b"4111", **PLACE)}

    assert (before.newest, after.newest) == ("old", "new")
    assert {after.decrypt(id, text, **PLACE) for id, text in texts.items()} == {b"4111"}
    assert len({after.encrypt(b"4111", **PLACE) for _ in range(100)}) == 100


@pytest.mark.parametrize("place", [{"kind": "refund", "field": "card"}, {"kind": "charge", "field": "iban"}])
def test_text_does_not_decrypt_in_another_place(place: dict[str, str]) -> None:
    """A text that was moved to another kind or field is refused, as is a text under the id of another key."""
    keys = SecretKeys({"new": NEW, "old": OLD})
    text = keys.encrypt(b"4111", **PLACE)

    with pytest.raises(InvalidSecret, match=r"must decrypt with key 'new', got a text that was changed"):
        keys.decrypt("new", text, **place)
    with pytest.raises(InvalidSecret, match=r"must decrypt with key 'old', got a text that was changed"):
        keys.decrypt("old", text, **PLACE)


def test_each_changed_byte_is_noticed() -> None:
    """Nonce, text and tag are authenticated, and a short or malformed text has the same error."""
    keys = SecretKeys({"new": NEW})
    sealed = base64.b64decode(keys.encrypt(b"4111", **PLACE))
    changed = [
        base64.b64encode(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]).decode()
        for at in range(len(sealed))
    ]

    for text in (*changed, base64.b64encode(sealed[:20]).decode(), "", "no base64!", "ü"):
        with pytest.raises(InvalidSecret) as caught:
            keys.decrypt("new", text, **PLACE)
        assert str(caught.value) == (
            "secret field 'card' of kind 'charge' must decrypt with key 'new', got a text that was changed, or made with "
            "another key, or for another kind or field; check the key"
        )


def test_unknown_key_id_is_named_with_the_known_ones() -> None:
    """The error says which key the text needs, and what to do."""
    with pytest.raises(InvalidSecret) as caught:
        SecretKeys({"new": NEW, "old": OLD}).decrypt("lost", "AAAA", **PLACE)

    assert str(caught.value) == (
        "secret field 'card' of kind 'charge' must be encrypted with a known key, got key 'lost'; known: 'new', 'old'; "
        "add the key to SecretKeys"
    )


def test_unique_text_needs_its_own_key_and_survives_a_rotation() -> None:
    """Equal texts have equal hashes under one unique_key, whatever the other keys are; without one, the error says so."""
    before = SecretKeys({"old": OLD}, unique_key=UNIQUE)
    after = SecretKeys({"new": NEW}, unique_key=base64.b64encode(UNIQUE).decode())
    other = SecretKeys({"new": NEW}, unique_key=OLD)
    text = before.unique_text('"4111"', **PLACE)

    assert text == after.unique_text('"4111"', **PLACE)
    assert len({text, other.unique_text('"4111"', **PLACE), after.unique_text('"4112"', **PLACE)}) == 3
    assert text != after.unique_text('"4111"', kind="charge", field="iban")
    with pytest.raises(InvalidSecret) as caught:
        SecretKeys({"new": NEW}).unique_text('"4111"', **PLACE)
    assert str(caught.value) == (
        "job of kind 'charge' that is unique by secret field 'card' needs a unique_key, got none; write "
        "SecretKeys(…, unique_key=…), or name other fields in by_args"
    )


MAKE = '; make one with: python -c "import base64, secrets; print(base64.b64encode(secrets.token_bytes(32)).decode())"'


@pytest.mark.parametrize(
    ("keys", "unique_key", "message"),
    [
        (
            {},
            None,
            'keys of SecretKeys must be a mapping with at least one key, got dict without; write {"2026-11": …}',
        ),
        (
            ["k" * 44],
            None,
            'keys of SecretKeys must be a mapping with at least one key, got list without; write {"2026-11": …}',
        ),
        (
            {"a b": NEW},
            None,
            (
                "id of a secret key must be 1 to 63 ASCII letters, digits, '.', '_' and '-', the first a letter or "
                "digit, got 'a b'"
            ),
        ),
        ({"new": b"planted"}, None, f"secret key 'new' must have 32 bytes, got 7{MAKE}"),
        (
            {"new": "planted"},
            None,
            f"secret key 'new' must be base64 of 32 bytes, got a text that is no base64{MAKE}",
        ),
        ({"new": 7}, None, "secret key 'new' must be bytes or a base64 text, got int"),
        ({"new": NEW}, "cGxhbnRlZA==", f"unique_key must have 32 bytes, got 7{MAKE}"),
    ],
)
def test_invalid_keys_are_refused(keys: Any, unique_key: Any, message: str) -> None:
    """The error names the key's id and the rule, and never shows a key."""
    with pytest.raises(ConfigError) as caught:
        SecretKeys(keys, unique_key=unique_key)

    assert str(caught.value) == message
    assert "planted" not in message


def test_repr_shows_no_key() -> None:
    """What a log or a traceback prints has the ids only."""
    assert repr(SecretKeys({"new": NEW, "old": OLD})) == "SecretKeys(ids=['new', 'old'], without unique_key)"
    assert repr(SecretKeys({"new": NEW}, unique_key=OLD)) == "SecretKeys(ids=['new'], with unique_key)"


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the extra, the error says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)

    with pytest.raises(ConfigError) as caught:
        SecretKeys({"new": NEW})

    assert str(caught.value) == (
        "secret args need cryptography, which is not installed; run: pip install 'millhand[secret]'"
    )
