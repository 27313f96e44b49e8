"""Passwords and tokens of users: only their hashes are in the settings."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

from millhand.shells.settings.web_user import HASHED_PASSWORD, UserConfig

# One check takes a fifth of a second and 16 MB: 2^14 rounds, five times.
_LOG2_ROUNDS, _BLOCK, _REPEATS = 14, 8, 5
# The hash of no password. Its check takes as long as another, so that the time does not show which names exist.
NO_PASSWORD = f"scrypt:{_LOG2_ROUNDS}:{_BLOCK}:{_REPEATS}:{'A' * 22}:{'A' * 43}"


def fingerprint(user: UserConfig) -> str:
    """Return a short text that changes with the password or token, so that sessions of the old one end."""
    return hashlib.sha256(f"{user.password} {user.token}".encode()).hexdigest()[:16]


def hashed_password(password: str, *, log2_rounds: int = _LOG2_ROUNDS) -> str:
    """Return the hash of a password for the settings."""
    salt = _text(secrets.token_bytes(16))
    parameters = f"{log2_rounds}:{_BLOCK}:{_REPEATS}"
    return f"scrypt:{parameters}:{salt}:{_scrypt(password, salt, log2_rounds, _BLOCK, _REPEATS)}"


def is_password(password: str, hashed: str) -> bool:
    """Return whether a hash is that of `password`. An empty or malformed hash is that of no password."""
    parts = re.fullmatch(HASHED_PASSWORD, hashed)
    if parts is None:
        return False
    log2_rounds, block, repeats = (int(parts[number]) for number in (1, 2, 3))
    return hmac.compare_digest(_scrypt(password, parts[4], log2_rounds, block, repeats), parts[5])


def new_token() -> str:
    """Return a token that no one can guess."""
    return secrets.token_urlsafe(32)


def hashed_token(token: str) -> str:
    """Return the hash of a token for the settings. A token is long and random, so it needs no slow hash."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def _scrypt(password: str, salt: str, log2_rounds: int, block: int, repeats: int) -> str:
    memory = 128 * block * (2**log2_rounds + repeats + 2)
    key = hashlib.scrypt(
        password.encode(),
        salt=salt.encode(),
        n=2**log2_rounds,
        r=block,
        p=repeats,
        dklen=32,
        maxmem=memory * 2,
    )
    return _text(key)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
