"""A storage with a location in its bucket, as those of django-storages have it."""

from __future__ import annotations

from django.core.files.storage import Storage
from django.utils.deconstruct import deconstructible


@deconstructible
class BucketStorage(Storage):
    """Knows where its files would be, and has none."""

    def __init__(self, location: str = "") -> None:
        self.location = location

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketStorage) and self.location == other.location

    def __hash__(self) -> int:
        return hash(self.location)
