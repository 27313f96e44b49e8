"""A storage with a location in its bucket, like those of django-storages."""

from __future__ import annotations

from django.core.files.storage import Storage
from django.utils.deconstruct import deconstructible


@deconstructible
class BucketStorage(Storage):
    """A storage without files."""

    def __init__(self, location: str = "") -> None:
        self.location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketStorage) and self.location == other.location

    def __hash__(self) -> int:
        return hash(self.location)
