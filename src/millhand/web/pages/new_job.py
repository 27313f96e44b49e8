"""The form for a new job, empty or filled with the values of another one."""

from __future__ import annotations

import msgspec

from millhand.core.errors import NotFound
from millhand.core.insert_opts import MAX_ATTEMPTS_DEFAULT, PRIORITY_DEFAULT, QUEUE_DEFAULT
from millhand.engine.store.client import client_get_shape, client_list
from millhand.engine.store.job_details import job_get_details
from millhand.engine.store.queue_load import queue_list_names
from millhand.shells.settings.web_user import within
from millhand.shells.web.form import ID_MAX, whole_number
from millhand.shells.web.page import PageRequest


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """
    The values of the form, and names to choose from.

    `args` is None if they are too long for a form, or a rule hides a part of them: a copy then keeps those of the job.
    """

    kind: str
    args: str | None
    queue: str
    priority: int
    max_attempts: int
    tags: tuple[str, ...]
    copy_of: int | None
    known_kinds: tuple[str, ...]
    known_queues: tuple[str, ...]


async def load(request: PageRequest) -> NewJob:
    """Load the form. Raises: NotFound, ValueError for a `copy_of` that is no id."""
    kinds = await _known_kinds(request)
    queues = await request.database.run(queue_list_names(among=request.user.queues))
    form = NewJob(
        kind=request.query.get("kind", ""),
        args="{}",
        queue=request.query.get("queue", QUEUE_DEFAULT),
        priority=PRIORITY_DEFAULT,
        max_attempts=MAX_ATTEMPTS_DEFAULT,
        tags=(),
        copy_of=None,
        known_kinds=tuple(within(kinds, request.user.kinds) or ()),
        known_queues=tuple(queues),
    )
    copy_of = request.query.get("copy_of")
    return form if copy_of is None else await _filled(form, copy_of, request)


async def _filled(form: NewJob, copy_of: str, request: PageRequest) -> NewJob:
    id = whole_number("copy_of", copy_of, maximum=ID_MAX)
    job = await request.database.run(job_get_details(id))
    if not request.user.sees(queue=job.queue, kind=job.kind):
        raise NotFound("job", job.id)
    shown = request.hide.job(job)
    return msgspec.structs.replace(
        form,
        kind=job.kind,
        args=None if job.args.is_cut or shown.args != job.args else job.args.text,
        queue=job.queue,
        priority=job.priority,
        max_attempts=job.max_attempts,
        tags=job.tags,
        copy_of=job.id,
    )


async def _known_kinds(request: PageRequest) -> tuple[str, ...]:
    if not await request.database.has(client_get_shape):
        return ()
    clients = await request.database.run(client_list())
    return tuple(sorted({kind for client in clients for kind in client.kinds}))
