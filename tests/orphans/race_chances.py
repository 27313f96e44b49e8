"""Random choices for one run of a race: who acts before which call, which process is killed, and what fails."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from adversary import OPERATIONS, Interrupter, Killed, break_source

if TYPE_CHECKING:
    from race import Race

MAX_CALLS = 220
SWEEPING = ("begin", "commit", "committed", "fetch", "head", "move", "moved", "copy", "run")
SUDDEN = (
    "adopt",
    "finish_upload",
    "put_and_adopt",
    "put_first",
    "put_first",
    "refer",
    "refer_and_look",
    "refer_and_look",
    "refer_and_look",
    "undelete",
    "upload",
)
FATAL = ("move", "moved", "moved", "commit", "committed", "copy", "delete", "delete_many")


def interrupter_of(race: Race, *, is_calm: bool) -> Interrupter:
    """Choose what happens between the calls of a run. In a calm run no process is killed and no source fails."""
    interrupter = Interrupter(interventions={})
    chance = race.chance
    for _ in range(chance.choice((0, 2, 4, 6, 9, 12, 16))):
        action = chance.choice(SUDDEN if chance.random() < 0.5 else race.app.actions)
        interrupter.interventions.setdefault(_moment(chance), []).append(lambda what=action: race.act(what))
    if is_calm:
        return interrupter
    if chance.random() < (0.3 if race.targets else 0.45):
        fatal = (chance.choice(FATAL), chance.randrange(1, 4))
        moment = fatal if chance.random() < 0.5 else _moment(chance)
        interrupter.interventions.setdefault(moment, []).append(die)
    if chance.random() < (0.2 if race.targets else 0.08):
        broken = ("committed", chance.randrange(1, 7))
        moment = broken if race.targets else _moment(chance)
        interrupter.interventions.setdefault(moment, []).append(lambda: break_source(interrupter))
    return interrupter


def _moment(chance: random.Random) -> Any:
    operation = chance.choice((*SWEEPING, *OPERATIONS))
    return chance.choice([chance.randrange(1, MAX_CALLS), (operation, chance.randrange(1, 9))])


async def die() -> None:
    """Kill the process that is about to make a call."""
    raise Killed
