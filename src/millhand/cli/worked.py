"""What `millhand worker` would work: the kinds of a user's configuration, and those of the built-in jobs that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from millhand import jobs
from millhand.args.adapters import ArgsType
from millhand.args.codec import decoder_of
from millhand.config import Config
from millhand.settings.load import Settings

# By section: the kind of the job that it is about. Said here, for the job itself is imported where it runs.
BUILT_INS = {"heartbeat": "heartbeat", "orphans": "orphan_cleanup"}


class WorkedArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The args that one worker takes: the kind and its aliases, their type, and how they are decoded."""

    args_type: ArgsType
    decode: Callable[[str], Any]
    kinds: tuple[str, ...]
    worker: str


def built_ins(settings: Settings, target: str | None) -> dict[str, str]:
    """Return the kinds of the built-in jobs that run, by section; beside a user's own, those with settings."""
    return {
        section: kind
        for section, kind in BUILT_INS.items()
        if settings.get(f"{section}.enabled") and (target is None or settings.section(section))
    }


def args_of(section: str) -> tuple[ArgsType, ...]:
    """Return the args of the job that a section is about, and of those that this inserts."""
    return (jobs.Heartbeat,) if section == "heartbeat" else (jobs.OrphanCleanup,)


def worked_args(settings: Settings, config: Config, target: str) -> list[WorkedArgs]:
    """Return what the configuration called `target` would work, by kind."""
    own = [
        WorkedArgs(args_type=worker.args_type, decode=worker.decode, kinds=worker.kinds, worker=worker.name)
        for worker in config.workers
    ]
    return sorted([*own, *_built_in_args(settings, target)], key=lambda one: one.kinds)


def _built_in_args(settings: Settings, target: str) -> Iterator[WorkedArgs]:
    for section in built_ins(settings, target):
        for args in args_of(section):
            decode = decoder_of(args, args.kind)
            yield WorkedArgs(args_type=args, decode=decode, kinds=(args.kind,), worker=f"[{section}]")
