"""The kinds that `millhand worker` works: those of a user's configuration, and those of the enabled built-in jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from millhand import jobs
from millhand.args.adapters import ArgsType
from millhand.args.codec import decoder_of
from millhand.config import Config
from millhand.settings.load import Settings

# The kind of the job of each section. Written here, because the job itself is imported only where it runs.
BUILT_INS = {"heartbeat": "heartbeat", "orphans": "orphan_cleanup"}


class WorkedArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The args of one worker: its kind and aliases, their type, and their decoder."""

    args_type: ArgsType
    decode: Callable[[str], Any]
    kinds: tuple[str, ...]
    worker: str


def built_ins(settings: Settings) -> dict[str, str]:
    """Return the kinds of the enabled built-in jobs by section."""
    return {section: kind for section, kind in BUILT_INS.items() if settings.get(f"{section}.enabled")}


def args_of(section: str) -> ArgsType:
    return jobs.Heartbeat if section == "heartbeat" else jobs.OrphanCleanup


def worked_args(settings: Settings, config: Config, target: str) -> list[WorkedArgs]:
    own = [
        WorkedArgs(args_type=worker.args_type, decode=worker.decode, kinds=worker.kinds, worker=worker.name)
        for worker in config.workers
    ]
    for section, kind in built_ins(settings.with_config(config, target)).items():
        args = args_of(section)
        own.append(
            WorkedArgs(args_type=args, decode=decoder_of(args, kind), kinds=(kind,), worker=f"[{section}]")
        )
    return sorted(own, key=lambda one: one.kinds)
