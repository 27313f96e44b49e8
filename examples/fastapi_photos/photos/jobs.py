"""The jobs; `millhand worker photos.jobs:config` works them, and runs the orphan cleanup of millhand.toml."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Config, Job, JobCancel, Workers
from photos.database import Photo, new_session
from photos.storage import NotAPhoto, store_thumbnail

workers = Workers()


@dataclass(frozen=True)
class MakeThumbnail:
    kind: ClassVar[str] = "make_thumbnail"
    photo_id: int


@workers.add(timeout=timedelta(minutes=2))
async def make_thumbnail(job: Job[MakeThumbnail]) -> None:
    """Store a thumbnail. A second run stores the same object again, so a retry does no harm."""
    async with new_session() as session:
        photo = await session.get(Photo, job.args.photo_id)
    if photo is None:
        raise JobCancel("the photo was deleted")
    try:
        width, height = await asyncio.to_thread(store_thumbnail, photo.key)
    except NotAPhoto as error:
        raise JobCancel(str(error)) from error  # no retry would change that
    async with new_session.begin() as session:
        photo = await session.get(Photo, job.args.photo_id, with_for_update=True)
        if photo is not None:  # deleted meanwhile: the cleanup removes the thumbnail with its photo
            photo.state, photo.width, photo.height = "ready", width, height


config = Config(workers=workers, queues={"default": 8})
