"""Users of the web page: what each may see and do."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from millhand.core.errors import ConfigError, MillhandError

RoleName = Literal["viewer", "operator", "admin"]
HASHED_PASSWORD = r"scrypt:(1?\d):(\d{1,2}):(\d{1,2}):([\w-]{22}):([\w-]{43})"  # noqa: S105 - a pattern
HASHED_TOKEN = r"sha256:[0-9a-f]{64}"  # noqa: S105 - a pattern


class Role(enum.IntEnum):
    """What a user may do. Each role includes the roles before it."""

    VIEWER = 1  # sees everything that no rule hides
    OPERATOR = 2  # retries, cancels and snoozes jobs; pauses and resumes queues
    ADMIN = 3  # inserts and deletes jobs

    @property
    def label(self) -> str:
        return self.name.lower()


class RoleRequired(MillhandError):
    """The user's role does not allow this."""

    def __init__(self, required: Role, role: Role) -> None:
        super().__init__(f"role must be {required.label} or higher to do this, got {role.label}")


class User(msgspec.Struct, frozen=True, kw_only=True):
    """
    A user of the web page.

    `queues` and `kinds` limit what the user sees and changes; None is no limit. On a page of several databases,
    `databases` are those that the user sees, each with the role there; None is all of them, with `role`.
    """

    name: str
    role: Role = Role.VIEWER
    queues: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    databases: Mapping[str, Role] | None = None

    def in_database(self, name: str) -> User | None:
        """Return the user with the role in one of several databases, or None if the user does not see it."""
        if self.databases is None:
            return self
        role = self.databases.get(name)
        return None if role is None else msgspec.structs.replace(self, role=role)

    @property
    def is_limited(self) -> bool:
        """Whether the user sees some jobs only, so that figures of all jobs are not for them."""
        return self.queues is not None or self.kinds is not None

    def require(self, role: Role) -> None:
        """Return if the user has at least `role`. Raises: RoleRequired."""
        if self.role < role:
            raise RoleRequired(role, self.role)

    def sees_queue(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    def sees_kind(self, kind: str) -> bool:
        return self.kinds is None or kind in self.kinds

    def sees(self, *, queue: str, kind: str) -> bool:
        """Return whether a job of this queue and kind is within the user's limits."""
        return self.sees_queue(queue) and self.sees_kind(kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserConfig:
    """
    A user in the settings of the web page, by name.

    Attributes:
        role: `viewer`, `operator` or `admin`.
        password: The hash of the password that the login page takes, by `millhand web --hash-password`.
        token: The hash of the token that the API and the login page take, by `millhand web --new-token`.
        queues: The queues that the user sees; None for all.
        kinds: The kinds that the user sees; None for all.
        databases: The databases that the user sees, each with the role there; None for all, with `role`.

    Raises: ConfigError if a hash is not one.
    """

    role: RoleName = "viewer"
    password: str = ""
    token: str = ""
    queues: tuple[str, ...] | None = None
    kinds: tuple[str, ...] | None = None
    databases: Mapping[str, RoleName] | None = None

    def __post_init__(self) -> None:
        # The error does not show the value, which may be a plain password.
        if self.password and not re.fullmatch(HASHED_PASSWORD, self.password):
            raise ConfigError(
                "password must be a hash that begins with 'scrypt:'; make one with millhand web --hash-password"
            )
        if self.token and not re.fullmatch(HASHED_TOKEN, self.token):
            raise ConfigError(
                "token must be a hash that begins with 'sha256:'; make one with millhand web --new-token"
            )

    @property
    def can_log_in(self) -> bool:
        return bool(self.password or self.token)

    def user(self, name: str) -> User:
        """Return the user with this entry's role and limits."""
        roles = None if self.databases is None else {key: _role(role) for key, role in self.databases.items()}
        return User(name=name, role=_role(self.role), queues=self.queues, kinds=self.kinds, databases=roles)


def _role(name: RoleName) -> Role:
    return Role[name.upper()]


def within(asked: Sequence[str] | None, allowed: Sequence[str] | None) -> Sequence[str] | None:
    """Return the names to filter by: those asked for that are allowed. None is every name, and an empty list is none."""
    if allowed is None or asked is None:
        return asked if allowed is None else allowed
    return [name for name in asked if name in allowed]
