"""The web server: `uvicorn photos.app:app`. It inserts jobs, and the worker runs them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from millhand import Client
from millhand.contrib.starlette import get_client, millhand_lifespan
from photos import storage
from photos.database import Photo, engine, get_session
from photos.jobs import MakeThumbnail


@contextlib.asynccontextmanager
async def database(_: FastAPI) -> AsyncIterator[None]:
    """Close the connections that the application and its client share."""
    yield
    await engine.dispose()


# Without a Config with queues, the client only inserts.
app = FastAPI(title="Photos", lifespan=millhand_lifespan(engine, around=database))

Session = Annotated[AsyncSession, Depends(get_session)]
Millhand = Annotated[Client, Depends(get_client)]


class NewPhoto(BaseModel):
    filename: str = Field(min_length=1, max_length=200)


class Upload(BaseModel):
    id: int
    put_to: str


class PhotoOut(BaseModel):
    id: int
    state: str
    width: int | None
    height: int | None
    photo: str
    thumbnail: str | None


async def get_photo(photo_id: int, session: Session) -> Photo:
    """Return the photo of the path."""
    photo = await session.get(Photo, photo_id)
    if photo is None:
        raise HTTPException(404, "no such photo")
    return photo


Found = Annotated[Photo, Depends(get_photo)]


@app.post("/photos", status_code=201)
async def start_upload(new: NewPhoto, session: Session) -> Upload:
    """Store a pending row, then let the browser upload: an object never exists before its row."""
    photo = Photo(key=storage.new_key(new.filename))
    session.add(photo)
    await session.commit()
    return Upload(id=photo.id, put_to=storage.upload_url(photo.key))


@app.post("/photos/{photo_id}/uploaded", status_code=202)
async def finish_upload(photo: Found, session: Session, client: Millhand) -> None:
    """Mark a photo as uploaded, and insert its job in the same transaction."""
    await session.refresh(photo, with_for_update=True)
    if photo.state == "pending":  # a second call changes nothing
        photo.state = "uploaded"
        await client.insert(MakeThumbnail(photo.id), tx=session)
    await session.commit()


@app.get("/photos/{photo_id}")
async def show(photo: Found) -> PhotoOut:
    """Return a photo with URLs to its object and its thumbnail."""
    is_ready = photo.state == "ready"
    return PhotoOut(
        id=photo.id,
        state=photo.state,
        width=photo.width,
        height=photo.height,
        photo=storage.download_url(photo.key),
        thumbnail=storage.download_url(storage.thumbnail_key(photo.key)) if is_ready else None,
    )


@app.delete("/photos/{photo_id}", status_code=204)
async def delete(photo: Found, session: Session) -> None:
    """Delete the row only: the orphan cleanup removes the photo and its thumbnail."""
    await session.delete(photo)
    await session.commit()
