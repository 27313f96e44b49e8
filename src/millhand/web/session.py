"""
Sessions: a signed cookie with the user's name, and the token that protects the session's forms.

The cookie holds no role: each request reads the role from the settings.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

import msgspec
from itsdangerous import BadSignature, Signer, URLSafeSerializer

DURATION = timedelta(hours=12)


class Session(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A login. `fingerprint` is that of the password or token it was made with."""

    name: str
    id: str
    expires: float
    fingerprint: str


class Sessions:
    """
    Makes and reads signed sessions.

    Args:
        secret: Signs the sessions. Processes that share it accept each other's.
    """

    def __init__(self, secret: str) -> None:
        self._cookies = URLSafeSerializer(
            secret, salt="millhand.session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        self._forms = Signer(secret, salt="millhand.csrf", digest_method=hashlib.sha256)

    def new(self, name: str, fingerprint: str, now: datetime) -> str:
        """Return the cookie of a new session."""
        session = Session(
            name=name,
            id=secrets.token_urlsafe(16),
            expires=(now + DURATION).timestamp(),
            fingerprint=fingerprint,
        )
        cookie = self._cookies.dumps(msgspec.to_builtins(session))
        return cookie if isinstance(cookie, str) else cookie.decode()

    def read(self, cookie: str, now: datetime) -> Session | None:
        """Return the session of a cookie, or None if it has ended or is not ours."""
        try:
            session = msgspec.convert(self._cookies.loads(cookie), Session)
        except (BadSignature, msgspec.ValidationError):
            return None
        return session if session.expires > now.timestamp() else None

    def csrf(self, key: str) -> str:
        """Return the token that each form of a session must bring. `key` is the session's id, or names its user."""
        return self._forms.get_signature(key).decode()


def cookie_name(*, is_secure: bool, prefix: str, port: int | None) -> str:
    """
    Return the name of the session's cookie, with the strictest prefix that browsers accept here.

    Browsers do not separate ports, so pages on two ports of one machine have cookies of different names.
    """
    if not is_secure:
        return f"millhand_{port or 80}"
    return "__Secure-millhand" if prefix else "__Host-millhand"
