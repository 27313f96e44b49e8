"""SQLAlchemy engines, and a job, for the tests of drivers on SQLAlchemy."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

DIALECTS = ("postgresql+psycopg", "postgresql+asyncpg")


# Other JSON functions, as applications have them.
OWN_JSON: dict[str, Any] = {
    "json_deserializer": lambda text: {"loaded": text},
    "json_serializer": lambda _: "null",
}


@dataclass(frozen=True)
class Act:
    kind: ClassVar[str] = "act"
    name: str


def url_for(url: str, dialect: str) -> str:
    return url.replace("postgresql", dialect, 1)


@contextlib.asynccontextmanager
async def engine_of(url: str, dialect: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url_for(url, dialect), **options)
    yield engine
    await engine.dispose()
