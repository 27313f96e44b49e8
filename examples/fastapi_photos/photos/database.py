"""The table of photos, and sessions for the web server and the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import DateTime

# The engine connects when a session first needs it.
url = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class Photo(Base):
    """A photo. Its object in the bucket may come later than its row, and may stay longer."""

    __tablename__ = "photos"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    state: Mapped[str] = mapped_column(default="pending")  # pending → uploaded → ready
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    width: Mapped[int | None]
    height: Mapped[int | None]


async def get_session() -> AsyncIterator[AsyncSession]:
    """Yield the session of one request, which commits where it wants to."""
    async with new_session() as session:
        yield session
