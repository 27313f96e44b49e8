from __future__ import annotations

import msgspec

from millhand import Hook, InsertParams


class Stamp(Hook):
    """Adds a tag to each job of the project's client."""

    async def insert_begin(self, params: InsertParams) -> InsertParams:
        return msgspec.structs.replace(params, tags=(*params.tags, "stamped"))
