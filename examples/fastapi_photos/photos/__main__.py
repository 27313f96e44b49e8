"""Create the tables of Millhand and of the application: `python -m photos`. A larger application would use Alembic."""

from __future__ import annotations

import asyncio

from millhand import Client
from photos.database import Base, engine


async def setup() -> None:
    await Client(engine).migrate()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


if __name__ == "__main__":
    asyncio.run(setup())
