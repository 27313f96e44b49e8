"""The engines: a synchronous one for the command line, and an asynchronous one for the worker. Both use psycopg 3."""

from __future__ import annotations

import os
import sys

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

given = os.environ.get("DATABASE_URL") or sys.exit("set DATABASE_URL: see examples/README.md")
url = make_url(given).set(drivername="postgresql+psycopg")

# An engine connects when a session first needs it, so a process that uses one of them opens no connection of the other.
engine = create_engine(url)
new_session = sessionmaker(engine)

async_engine = create_async_engine(url)
new_async_session = async_sessionmaker(async_engine)
