"""What is drawn for a run of a race: who acts before which word, who is killed at it, and what is broken then."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from adversary import OPERATIONS, Interrupter, Killed, break_source

if TYPE_CHECKING:
    from race import Race

MAX_WORDS = 220
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
    """Draw what comes between the words of a run; in a calm one nobody is killed or lied to."""
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
    return chance.choice([chance.randrange(1, MAX_WORDS), (operation, chance.randrange(1, 9))])


async def die() -> None:
    """Have whoever is about to say a word be killed."""
    raise Killed
