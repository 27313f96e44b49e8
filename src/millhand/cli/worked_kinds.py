"""The kinds that `millhand worker` works: those of a user's configuration, and those of the enabled built-in jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from millhand import jobs
from millhand.core.args.adapters import ArgsType
from millhand.core.args.codec import decoder_of
from millhand.core.config import Config
from millhand.shells.settings.load import Settings

# The kinds of the jobs of each section. Written here, because the jobs themselves are imported only where they run.
BUILT_INS = {"heartbeat": ("heartbeat",), "orphans": ("orphan_cleanup", "orphan_restore")}


class WorkedArgs(msgspec.Struct, frozen=True, kw_only=True):
    """The args of one worker: its kind and aliases, their type, and their decoder of a row's text by kind."""

    args_type: ArgsType
    decode: Mapping[str, Callable[[str], Any]]
    kinds: tuple[str, ...]
    worker: str


def built_ins(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the kinds of the enabled built-in jobs by section."""
    return {section: kinds for section, kinds in BUILT_INS.items() if settings.get(f"{section}.enabled")}


def args_of(kind: str) -> ArgsType:
    """Return the args class of a built-in job."""
    return {"heartbeat": jobs.Heartbeat, "orphan_cleanup": jobs.OrphanCleanup}.get(kind, jobs.OrphanRestore)


def worked_args(settings: Settings, config: Config, target: str) -> list[WorkedArgs]:
    own = [
        WorkedArgs(
            args_type=worker.args_type,
            decode={kind: worker.decoder(kind, config.secret_keys) for kind in worker.kinds},
            kinds=worker.kinds,
            worker=worker.name,
        )
        for worker in config.workers
    ]
    for section, kinds in built_ins(settings.with_config(config, target)).items():
        for kind in kinds:
            args = args_of(kind)
            own.append(
                WorkedArgs(
                    args_type=args,
                    decode={kind: decoder_of(args, kind)},
                    kinds=(kind,),
                    worker=f"[{section}]",
                )
            )
    return sorted(own, key=lambda one: one.kinds)
