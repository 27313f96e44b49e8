"""
A model of an application with references in twelve places. It knows nothing of how the cleanup decides.

An object is live while any place still has a reference to it. Otherwise it is an orphan. That is the whole model.
A step changes the bookkeeping here and adds what must be written to `Writes`; `reference_world.py` writes it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from reference_places import NAMES, PLACE_OF, UPLOADS, key_of

MAX_SIZE = 4_000
STALE = timedelta(days=21)  # an older orphan must be gone
NUM_STORIES = 5
PENDING_ROW, REPLACED_ROW = "pending row", "replaced row"


class Where(StrEnum):
    """Where an object is, as the last look at the store showed it."""

    STORED = "stored"
    QUARANTINED = "quarantined"
    GONE = "gone"


@dataclass(slots=True, eq=False, kw_only=True)
class Reference:
    """One reference: its place, the form of its text, and when the application wrote it."""

    place: str
    form: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.place}, {self.form}"


@dataclass(slots=True, eq=False, kw_only=True)
class Thing:
    """
    One object. `since` is when it lost its last reference, None while it is live.

    `is_late` means that the application wrote a reference that no rule promises to see in time: for an object in quarantine,
    or in an undeclared place while a run moves objects. Such an object may be moved, but never destroyed.
    """

    key: str
    size: int
    references: dict[int, Reference] = field(default_factory=dict)
    since: datetime | None = None
    where: Where = Where.STORED
    is_late: bool = False
    is_counted: bool = False  # among the orphans that became stale
    pending_until: datetime | None = None
    index: int = 0  # in its bag


@dataclass(kw_only=True)
class Bag:
    """Objects to choose from at random. Adding and removing take constant time."""

    things: list[Thing] = field(default_factory=list)

    def add(self, thing: Thing) -> None:
        thing.index = len(self.things)
        self.things.append(thing)

    def remove(self, thing: Thing) -> None:
        last = self.things.pop()
        if last is not thing:
            self.things[thing.index] = last
            last.index = thing.index


@dataclass(kw_only=True)
class Writes:
    """What the application has not written yet. The last write of a row or an object counts."""

    puts: dict[str, int] = field(default_factory=dict)  # the size of each object
    uploads: dict[str, str] = field(default_factory=dict)  # ready, pending, deleted or gone, by key
    articles: dict[int, str | None] = field(default_factory=dict)  # the key of each article's upload
    rows: dict[str, dict[int, tuple[str, str] | None]] = field(
        default_factory=dict
    )  # text and key, by place and id


@dataclass(kw_only=True)
class Model:
    """The application's bookkeeping. `unprotected` are places whose references do not count."""

    chance: random.Random
    now: datetime
    target: int  # how many objects are live, about
    places: tuple[str, ...] = NAMES
    is_attached: bool = False
    unprotected: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    destroyed: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)
    things: dict[str, Thing] = field(default_factory=dict)
    live: Bag = field(default_factory=Bag)
    orphans: Bag = field(default_factory=Bag)
    pending: list[Thing] = field(default_factory=list)
    writes: Writes = field(default_factory=Writes)
    num_made: int = 0
    patience: timedelta = timedelta(days=2)  # how long an upload may take, half of the grace
    _last_id: int = 0

    def step(self) -> None:
        """Let the application do one thing."""
        weights = UPLOADING if len(self.live.things) < self.target else FORGETTING
        action = self.chance.choices(ACTIONS, cum_weights=weights)[0]
        self.done[action.__name__] += 1
        action(self)

    # --- what the application does ---------------------------------------------------------------------------------

    def upload(self) -> None:
        """Upload an object and refer to it."""
        self.refer(self._new_thing())

    def begin_upload(self) -> None:
        """Write a pending row, and upload the object; the row becomes ready later, or never."""
        if UPLOADS in self.places:
            self._make_pending(self._new_thing())

    def fail_upload(self) -> None:
        """Upload an object, and fail before the reference is written."""
        self._settle(self._new_thing())

    def refer_again(self) -> None:
        """Refer to a live object from one more place."""
        if thing := self._some(self.live):
            self.refer(thing)

    def forget(self) -> None:
        """Remove one reference of an object."""
        if thing := self._some(self.live):
            self.drop(thing, self.chance.choice(list(thing.references)))

    def move_reference(self) -> None:
        """Replace a reference by one in another place, in one transaction."""
        if thing := self._some(self.live):
            before = self.chance.choice(list(thing.references))
            self.refer(thing)
            self.drop(thing, before)

    def overwrite(self) -> None:
        """Put other bytes under the key of a live object."""
        if (thing := self._some(self.live)) and thing.where is Where.STORED:
            self._put(thing)

    def replace(self) -> None:
        """Set the ready row of an upload back to pending, and put other bytes."""
        thing = self._some(self.live)
        if thing and thing.where is Where.STORED and self._has_upload(thing) and thing.pending_until is None:
            self._make_pending(thing)

    def find_again(self) -> None:
        """Refer to an orphan again, wherever it is; a link comes back from a draft or from a backup."""
        thing = self._some(self.orphans)
        if thing and thing.where is not Where.GONE:
            thing.is_late = thing.where is Where.QUARANTINED
            self.refer(thing)

    # --- references ------------------------------------------------------------------------------------------------

    def refer(self, thing: Thing, names: Sequence[str] = ()) -> int:
        """Write a reference to an object in one of some places, and return its id."""
        name = self.chance.choice(
            [one for one in names if self._may_refer(thing, one)]
            or [one for one in self.places if self._may_refer(thing, one)]
            or [next(iter(PLACE_OF))]
        )
        self._last_id += 1
        if name == UPLOADS:
            form = "row"
            self.writes.uploads[thing.key] = "ready"
            if self.is_attached:
                self.writes.articles[self._last_id] = thing.key
        else:
            place = PLACE_OF[name]
            form = self.chance.choice(list(place.forms))
            row = (place.forms[form](thing.key), thing.key)
            self.writes.rows.setdefault(name, {})[self._last_id] = row
        self._hold(thing, self._last_id, Reference(place=name, form=form, at=self.now))
        return self._last_id

    def drop(self, thing: Thing, number: int) -> None:
        """Remove one reference."""
        reference = thing.references.pop(number)
        if reference.place == UPLOADS:
            self._drop_upload(thing, number)
        else:
            self.writes.rows.setdefault(reference.place, {})[number] = None
        self._settle(thing)

    def finish_uploads(self) -> None:
        """Make pending rows ready whose time has come, or give them up."""
        for thing in [one for one in self.pending if one.pending_until and one.pending_until <= self.now]:
            self.pending.remove(thing)
            thing.pending_until = None
            numbers = [number for number, one in thing.references.items() if one.place == UPLOADS]
            if numbers and (thing.references[numbers[0]].form == REPLACED_ROW or self.chance.random() < 0.7):
                self.writes.uploads[thing.key] = "ready"
                if self.is_attached:
                    self.writes.articles[numbers[0]] = thing.key
                thing.references[numbers[0]].form = "row"
            elif numbers:  # the upload is abandoned: the row stays pending
                del thing.references[numbers[0]]
                self._settle(thing)

    def unprotect(self, name: str) -> None:
        """Do not count the references in a place any more: the operator has been warned and accepts the loss."""
        self.unprotected.add(name)
        for thing in [
            one for one in self.live.things if any(r.place == name for r in one.references.values())
        ]:
            thing.references = {n: r for n, r in thing.references.items() if r.place != name}
            if not thing.references:  # neither live nor an orphan
                self.live.remove(thing)
                del self.things[thing.key]

    # --- what a look at the store shows ----------------------------------------------------------------------------

    def judge(self, stored: Mapping[str, int], quarantined: Collection[str], run: str) -> None:
        """Compare the bookkeeping with the store after a run. Count and forget what was lost."""
        for thing in list(self.things.values()):
            thing.where = _where(thing, stored, quarantined)
            if thing.since is None:
                self._judge_live(thing, run)

    def judge_rows(self, uploads: Collection[str], articles: Collection[int]) -> None:
        """Count live uploads and articles that are not there."""
        for thing in self.live.things:
            for number, reference in thing.references.items():
                has_article = self.is_attached and reference.form != PENDING_ROW
                if reference.place == UPLOADS and (
                    thing.key not in uploads or (has_article and number not in articles)
                ):
                    self.done["live rows removed"] += 1

    def count_stale(self, *, quarantine_counts: bool) -> None:
        """Count orphans that have just become stale, and how many of them are still there. Forget those that are gone."""
        for thing in list(self.orphans.things):
            if not thing.is_counted and thing.since is not None and self.now - thing.since >= STALE:
                thing.is_counted = True
                self.done["stale"] += 1
                is_left = thing.where is Where.STORED or (
                    quarantine_counts and thing.where is Where.QUARANTINED
                )
                self.done["left"] += is_left
            if thing.is_counted and thing.where is Where.GONE:
                self._forget(thing)

    def oldest_orphans(self, number: int) -> list[Thing]:
        """Return the orphans in place that wait longest: they are what a run is about to move."""
        stored = [one for one in self.orphans.things if one.where is Where.STORED and one.since]
        return sorted(stored, key=lambda one: (one.since or self.now, one.key))[:number]

    def _judge_live(self, thing: Thing, run: str) -> None:
        if thing.where is Where.STORED:
            thing.is_late = False
            return
        if thing.where is Where.QUARANTINED and thing.is_late:
            return
        how = " + ".join(sorted({str(one) for one in thing.references.values()}))
        counter = self.moved if thing.where is Where.QUARANTINED else self.destroyed
        counter[how] += 1
        if len(self.stories) < NUM_STORIES:
            references = "; ".join(f"{one} at {one.at:%m-%d %H:%M}" for one in thing.references.values())
            story = f"{thing.key!r} is {thing.where}, has references in: {references}; {run}"
            self.stories.append(story)
        self._forget(thing)

    # --- bookkeeping -----------------------------------------------------------------------------------------------

    def _some(self, bag: Bag) -> Thing | None:
        return bag.things[int(self.chance.random() * len(bag.things))] if bag.things else None

    def _new_thing(self) -> Thing:
        self.num_made += 1
        thing = Thing(key=key_of(self.num_made, self.chance.getrandbits(20)), size=0, since=self.now)
        self.things[thing.key] = thing
        self.orphans.add(thing)
        self._put(thing)
        return thing

    def _put(self, thing: Thing) -> None:
        thing.size = thing.size % MAX_SIZE + 1 + self.chance.getrandbits(4)
        thing.where = Where.STORED
        self.writes.puts[thing.key] = thing.size

    def _may_refer(self, thing: Thing, name: str) -> bool:
        return name not in self.unprotected and (name != UPLOADS or not self._has_upload(thing))

    def _has_upload(self, thing: Thing) -> bool:
        return any(one.place == UPLOADS for one in thing.references.values())

    def _make_pending(self, thing: Thing) -> None:
        """Set the row of an upload to pending, and put its object."""
        self._put(thing)
        self.writes.uploads[thing.key] = "pending"
        thing.pending_until = self.now + self.chance.uniform(0.1, 1) * self.patience
        self.pending.append(thing)
        for one in thing.references.values():
            if one.place == UPLOADS:
                one.form = REPLACED_ROW
                return
        self._last_id += 1
        self._hold(thing, self._last_id, Reference(place=UPLOADS, form=PENDING_ROW, at=self.now))

    def _drop_upload(self, thing: Thing, number: int) -> None:
        if thing.pending_until is not None:
            thing.pending_until = None
            self.pending.remove(thing)
        ways = ("deleted", "gone", "") if self.is_attached else ("deleted", "gone")
        if way := self.chance.choice(ways):
            self.writes.uploads[thing.key] = way
        if self.is_attached:
            self.writes.articles[number] = None

    def _hold(self, thing: Thing, number: int, reference: Reference) -> None:
        thing.references[number] = reference
        if thing.since is not None:
            self.orphans.remove(thing)
            thing.since, thing.is_counted = None, False
            self.live.add(thing)

    def _settle(self, thing: Thing) -> None:
        """Make it an orphan if nothing refers to it."""
        if not thing.references and thing.since is None:
            self.live.remove(thing)
            thing.since = self.now
            self.orphans.add(thing)

    def _forget(self, thing: Thing) -> None:
        (self.live if thing.since is None else self.orphans).remove(thing)
        del self.things[thing.key]
        if thing in self.pending:
            self.pending.remove(thing)


def _where(thing: Thing, stored: Mapping[str, int], quarantined: Collection[str]) -> Where:
    if stored.get(thing.key) == thing.size:
        return Where.STORED
    return Where.QUARANTINED if thing.key in quarantined else Where.GONE


def _weights(numbers: Iterable[int]) -> list[int]:
    total, sums = 0, []
    for number in numbers:
        total += number
        sums.append(total)
    return sums


# The weights of each action, while there are few objects and while there are many.
_SHARES: dict[Callable[[Model], None], tuple[int, int]] = {
    Model.upload: (8, 3),
    Model.begin_upload: (4, 2),
    Model.fail_upload: (1, 1),
    Model.refer_again: (30, 22),
    Model.forget: (24, 40),
    Model.move_reference: (24, 24),
    Model.overwrite: (2, 2),
    Model.replace: (3, 3),
    Model.find_again: (3, 3),
}
ACTIONS = tuple(_SHARES)
UPLOADING = _weights(few for few, _ in _SHARES.values())
FORGETTING = _weights(many for _, many in _SHARES.values())
