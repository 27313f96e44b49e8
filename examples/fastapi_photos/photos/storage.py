"""The bucket. botocore reads credentials and endpoint from AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on."""

from __future__ import annotations

import functools
import uuid
from io import BytesIO
from typing import Any
from urllib.parse import quote

import botocore.session
from PIL import Image

BUCKET = "photos"
MAX_BYTES = 50_000_000
THUMBNAIL_SIZE = (256, 256)
URL_SECONDS = 3600  # much less than the grace in millhand.toml, after which an unfinished upload is removed


class NotAPhoto(Exception):
    """What was uploaded is no image, or too large."""


@functools.cache
def s3() -> Any:  # noqa: ANN401 - botocore makes its methods at run time
    """Return the client of this process; threads may share it."""
    return botocore.session.get_session().create_client("s3")


def new_key(filename: str) -> str:
    """Return a key that no other photo has: objects are never overwritten."""
    return f"uploads/{uuid.uuid4().hex}/{quote(filename, safe='')}"


def thumbnail_key(key: str) -> str:
    """Return the key of a photo's thumbnail; `derived` in millhand.toml has the same pattern."""
    return f"thumbnails/{key}"


def upload_url(key: str) -> str:
    """Return a URL to which a browser may PUT the object. Signing does not call the server."""
    return presigned("put_object", key)


def download_url(key: str) -> str:
    """Return a URL from which a browser may GET the object."""
    return presigned("get_object", key)


def presigned(operation: str, key: str) -> str:
    parameters = {"Bucket": BUCKET, "Key": key}
    url: str = s3().generate_presigned_url(operation, Params=parameters, ExpiresIn=URL_SECONDS)
    return url


def store_thumbnail(key: str) -> tuple[int, int]:
    """
    Store the thumbnail of an uploaded photo, and return the photo's size. It blocks: call it in a thread.

    Raises: NotAPhoto.
    """
    found = s3().get_object(Bucket=BUCKET, Key=key)
    if found["ContentLength"] > MAX_BYTES:
        raise NotAPhoto(f"the upload has {found['ContentLength']} bytes")
    thumbnail, size = shrink(found["Body"].read())
    s3().put_object(Bucket=BUCKET, Key=thumbnail_key(key), Body=thumbnail, ContentType="image/jpeg")
    return size


def shrink(body: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return a thumbnail as JPEG, and the size of the image. Raises: NotAPhoto."""
    thumbnail = BytesIO()
    try:
        with Image.open(BytesIO(body)) as image:
            size = image.size
            image.thumbnail(THUMBNAIL_SIZE)
            image.convert("RGB").save(thumbnail, "JPEG")
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:  # Pillow's errors for a broken file
        raise NotAPhoto("the upload is no image") from error
    return thumbnail.getvalue(), size
