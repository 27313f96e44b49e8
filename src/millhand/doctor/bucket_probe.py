"""Try what the credentials may do in a store, with one small object below `.millhand/doctor/`."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from datetime import datetime

import msgspec

from millhand.db.driver.protocol import Executor
from millhand.doctor.store import doctor_get_clock
from millhand.storage import ObjectInfo, ObjectNotFound, ObjectStore, StoreError
from millhand.storage.protocol import RESERVED_PREFIX

PREFIX = f"{RESERVED_PREFIX}doctor/"


class BucketProbe(msgspec.Struct, frozen=True, kw_only=True):
    """
    The steps that failed: list, put, get, delete. After a failed one, only an object that was put is deleted.

    `put` is the object; `before` and `after` are the database's time around that.
    """

    errors: Mapping[str, StoreError]
    put: ObjectInfo | None = None
    before: datetime
    after: datetime


async def probe_bucket(executor: Executor, store: ObjectStore) -> BucketProbe:
    """Try each step. Raises: DriverError."""
    # A key for this machine, so that at most one object of it stays where deletes are denied.
    key = f"{PREFIX}{uuid.getnode():x}"
    errors: dict[str, StoreError] = {}
    before = await executor.run(doctor_get_clock())
    step, put = "list", None
    try:
        async with contextlib.aclosing(store.list_pages(prefix=PREFIX, page_size=1)) as pages:
            async for _ in pages:
                break
        step = "put"
        put = await store.put(key, b"")
        step = "get"
        with contextlib.suppress(ObjectNotFound):  # another one on this machine has deleted it
            await store.get(key)
    except StoreError as error:
        errors[step] = error
    after = await executor.run(doctor_get_clock())
    if put is not None:
        try:
            await store.delete(key)
        except StoreError as error:
            errors["delete"] = error
    return BucketProbe(errors=errors, put=put, before=before, after=after)
