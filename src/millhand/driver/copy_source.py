"""The rows of a COPY, with their own errors kept apart from the database's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

from millhand.store.query import Copy


class CopySource:
    """Read the chunks of a COPY once, and remember what reading them raised."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self.error: Exception | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the chunks."""
        try:
            async for chunk in self._copy.chunks:
                yield chunk
        except Exception as error:
            self.error = error
            raise

    @contextlib.contextmanager
    def raising_own_error(self) -> Iterator[None]:
        """Raise the source's error as it was: a file that cannot be read is not a database error."""
        try:
            yield
        except Exception:
            if self.error is not None:
                raise self.error from None
            raise
