"""
The API of PyPI's `riverqueue`, River's insert-only client for Python, on Millhand: change the imports, keep the code.

    from millhand.compat import riverqueue
    from millhand.compat.riverqueue.driver import riversqlalchemy

    client = riverqueue.Client(riversqlalchemy.Driver(engine))
    client.insert(SortArgs(strings=["whale"]), insert_opts=riverqueue.InsertOpts(queue="animals"))

Unique jobs get the keys of River's Go client, and inserts notify workers.
See docs/how_to/migrate_from/riverqueue.md for the differences.

Source: riverqueue-python 0.7.0, for all names, signatures and defaults.
"""

from millhand.compat.riverqueue.client import AsyncClient, Client
from millhand.compat.riverqueue.insert_opts import (
    UNIQUE_STATES_DEFAULT,
    InsertManyParams,
    InsertOpts,
    JobArgs,
    JobArgsWithInsertOpts,
    UniqueOpts,
)
from millhand.compat.riverqueue.job import AttemptError, InsertResult, Job
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, PRIORITY_DEFAULT, QUEUE_DEFAULT
from millhand.core.job import JobState

__all__ = [
    "MAX_ATTEMPTS_DEFAULT",
    "PRIORITY_DEFAULT",
    "QUEUE_DEFAULT",
    "UNIQUE_STATES_DEFAULT",
    "AsyncClient",
    "AttemptError",
    "Client",
    "InsertManyParams",
    "InsertOpts",
    "InsertResult",
    "Job",
    "JobArgs",
    "JobArgsWithInsertOpts",
    "JobState",
    "UniqueOpts",
]
