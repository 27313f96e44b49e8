"""Object stores: one interface for a directory and for S3-compatible servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from millhand.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from millhand.storage.open import open_store
    from millhand.storage.protocol import (
        Capabilities,
        ExpiryRule,
        InvalidKey,
        ListingBroken,
        ObjectChanged,
        ObjectExists,
        ObjectInfo,
        ObjectLocked,
        ObjectNotFound,
        ObjectPage,
        ObjectStore,
        ObjectVersion,
        StoreError,
        Upload,
        Versioning,
    )
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "millhand.storage.open": "open_store",
            "millhand.storage.protocol": (
                "Capabilities ExpiryRule InvalidKey ListingBroken ObjectChanged ObjectExists ObjectInfo ObjectLocked "
                "ObjectNotFound ObjectPage ObjectStore ObjectVersion StoreError Upload Versioning"
            ),
        },
    )

__all__ = [
    "Capabilities",
    "ExpiryRule",
    "InvalidKey",
    "ListingBroken",
    "ObjectChanged",
    "ObjectExists",
    "ObjectInfo",
    "ObjectLocked",
    "ObjectNotFound",
    "ObjectPage",
    "ObjectStore",
    "ObjectVersion",
    "StoreError",
    "Upload",
    "Versioning",
    "open_store",
]
