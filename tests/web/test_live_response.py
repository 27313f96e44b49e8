from __future__ import annotations

import asyncio
import itertools

import msgspec
from visitors import ADMIN, NO_DATABASE

from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.shells.web.database import WebDatabase
from millhand.shells.web.hiding import hide_rules
from millhand.shells.web.page import Page, PageRequest
from millhand.web import User
from millhand.web.live import Watcher
from millhand.web.live_response import LivePages


class Loaded(msgspec.Struct, frozen=True):
    """Which load it was, and for whom."""

    number: int
    user: str


async def test_browsers_share_what_was_loaded_after_the_look_that_woke_them() -> None:
    """One load serves all users of a role whom one look woke, without their names; other requests load for themselves."""
    numbers = itertools.count(1)

    async def load(request: PageRequest) -> Loaded:
        await asyncio.sleep(0)
        return Loaded(next(numbers), request.user.name)

    page = Page(path="/", name="overview", tab="", title="", template=None, load=load)
    clock, ann = SystemClock(), msgspec.structs.replace(ADMIN, name="ann")
    state = {"jobs": "before"}

    async def looked(_before: dict[str, str]) -> dict[str, str]:
        return dict(state)

    watcher = Watcher(looked, clock, interval_seconds=3600)
    pages, database = LivePages(watcher), WebDatabase(AsyncpgDriver(NO_DATABASE), clock)

    async def loaded(*users: User, look: str, query: str = "") -> list[msgspec.Struct]:
        asked = [
            PageRequest(
                database=database, user=user, hide=hide_rules(()), now=clock.now(), query={"q": query}
            )
            for user in users
        ]
        return await asyncio.gather(*(pages.load(page, one, look) for one in asked))

    async with watcher.listener() as listener:
        await listener.next()
        first = watcher.look
        assert await loaded(ADMIN, ann, ADMIN, look=first) == [Loaded(1, "")] * 3
        assert await loaded(ann, look=first) == [Loaded(1, "")]
        assert await loaded(ann, look=first, query="mail") == [Loaded(2, "")]
        assert await loaded(ann, look="") == [Loaded(3, "ann")]
        assert await loaded(msgspec.structs.replace(ann, queues=("mail",)), look=first) == [Loaded(4, "ann")]
        assert await loaded(User(name="eve"), look=first) == [Loaded(5, "")]

        state["jobs"] = "after"
        watcher.wake_event.set()
        await listener.next()
        assert await loaded(ann, look=first) == [Loaded(6, "ann")]
        assert await loaded(ADMIN, ann, look=watcher.look) == [Loaded(7, "")] * 2

    watcher.wake_event.set()
    await asyncio.wait([watcher._task])  # type: ignore[list-item]
    assert not watcher.look
