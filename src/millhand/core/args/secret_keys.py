"""
The keys of secret args: AES-256 in Galois/Counter Mode, by the package `cryptography`.

Rule 1: the first key encrypts, and every key decrypts. So a key can be replaced while jobs wait.
Rule 2: a text decrypts only for the kind and the field that it was encrypted for.
Rule 3: no error and no `repr` contains a key or a plain text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from millhand.core.errors import ConfigError, InvalidSecret

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_ID_RE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)

# How a key is made, for the errors.
_MAKE_A_KEY = 'python -c "import base64, secrets; print(base64.b64encode(secrets.token_bytes(32)).decode())"'


class SecretKeys:
    """
    The keys of secret args, for `Config(secret_keys=…)`.

        SecretKeys({"2026-11": os.environ["SECRET_KEY_2026_11"], "2025-11": os.environ["SECRET_KEY_2025_11"]})

    Args:
        keys: The keys by id, the newest first: it encrypts, and all of them decrypt. A key is 32 bytes, or their base64. An
            id is stored with each text, so it must not change.
        unique_key: Another key of 32 bytes, or their base64, for the unique keys of jobs. A job that is unique by a secret
            field needs it. Keep it when you replace the other keys, or jobs from before are no duplicates any more.

    Raises: ConfigError for an invalid id or key, or if the package `cryptography` is not installed.
    Concurrency: any thread may use it.
    """

    __slots__ = ("_by_id", "_newest", "_unique_key")

    def __init__(self, keys: Mapping[str, bytes | str], *, unique_key: bytes | str | None = None) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - of an extra
        except ImportError:
            raise ConfigError(
                "secret args need cryptography, which is not installed; run: pip install 'millhand[secret]'"
            ) from None
        if not isinstance(keys, Mapping) or not keys:
            raise ConfigError(
                f"keys of SecretKeys must be a mapping with at least one key, got {type(keys).__name__} without; "
                'write {"2026-11": …}'
            )
        for key_id in keys:
            if not isinstance(key_id, str) or not KEY_ID_RE.fullmatch(key_id):
                raise ConfigError(
                    "id of a secret key must be 1 to 63 ASCII letters, digits, '.', '_' and '-', the first a letter or "
                    f"digit, got {key_id!r}"
                )
        self._by_id = {
            key_id: AESGCM(_checked_key(f"secret key {key_id!r}", key)) for key_id, key in keys.items()
        }
        self._newest = next(iter(keys))
        self._unique_key = None if unique_key is None else _checked_key("unique_key", unique_key)

    def __repr__(self) -> str:
        has = "with" if self.has_unique_key else "without"
        return f"SecretKeys(ids={list(self._by_id)!r}, {has} unique_key)"

    @property
    def newest(self) -> str:
        """The id of the key that encrypts."""
        return self._newest

    @property
    def has_unique_key(self) -> bool:
        """Whether jobs can be unique by a secret field."""
        return self._unique_key is not None

    def encrypt(self, plain: bytes, *, kind: str, field: str) -> str:
        """Return the base64 of nonce, encrypted text and tag, made with the newest key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        context = _context(kind, field, self._newest)
        return base64.b64encode(nonce + self._by_id[self._newest].encrypt(nonce, plain, context)).decode()

    def decrypt(self, key_id: str, data: str, *, kind: str, field: str) -> bytes:
        """Return what was encrypted. Raises: InvalidSecret for an unknown key, or a text that was changed."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - of an extra

        key = self._by_id.get(key_id)
        if key is None:
            raise InvalidSecret(
                f"secret field {field!r} of kind {kind!r} must be encrypted with a known key, got key {key_id!r}; known: "
                f"{', '.join(map(repr, self._by_id))}; add the key to SecretKeys"
            )
        try:
            sealed = base64.b64decode(data, validate=True)
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _context(kind, field, key_id))
        except (InvalidTag, ValueError):
            raise InvalidSecret(
                f"secret field {field!r} of kind {kind!r} must decrypt with key {key_id!r}, got a text that was changed, or "
                "made with another key, or for another kind or field; check the key"
            ) from None

    def unique_text(self, plain: str, *, kind: str, field: str) -> str:
        """
        Return a text that is equal for equal plain texts of a field, and shows nothing of them.

        Raises: InvalidSecret without a `unique_key`. The kind is not part of the text.
        """
        if self._unique_key is None:
            raise InvalidSecret(
                f"job of kind {kind!r} that is unique by secret field {field!r} needs a unique_key, got none; write "
                "SecretKeys(…, unique_key=…), or name other fields in by_args"
            )
        return hmac.new(self._unique_key, f"{field}\0{plain}".encode(), hashlib.sha256).hexdigest()


def _context(kind: str, field: str, key_id: str) -> bytes:
    """Return what is authenticated with a text: no two of these values give the same bytes."""
    return f"{kind}\0{field}\0{key_id}".encode()


def _checked_key(subject: str, key: object) -> bytes:
    """Return the 32 bytes of a key. The errors show its length only."""
    if isinstance(key, str):
        try:
            key = base64.b64decode(key.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(
                f"{subject} must be base64 of {KEY_BYTES} bytes, got a text that is no base64; make one with: {_MAKE_A_KEY}"
            ) from None
    if not isinstance(key, bytes):
        raise ConfigError(f"{subject} must be bytes or a base64 text, got {type(key).__name__}")
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{subject} must have {KEY_BYTES} bytes, got {len(key):,}; make one with: {_MAKE_A_KEY}"
        )
    return key
