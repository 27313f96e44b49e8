"""What a flow must look like after each event, by a model in plain Python that knows no joins and no counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flow_world import Node

OPEN = ("waiting", "released")
ENDED_JOBS = ("cancelled", "completed", "discarded", "deleted")


@dataclass
class ModelTask:
    """A task, the tasks that it waits for, and the states of it and of its job."""

    after: set[int]
    when: str
    waits: bool
    state: str = "released"
    job: str = "available"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


@dataclass
class FlowModel:
    """A flow. `tasks` are in the order of their jobs."""

    nodes: Sequence[Node]
    is_cancelled: bool = False
    tasks: list[ModelTask] = field(default_factory=list)

    def __post_init__(self) -> None:
        members: list[range] = []
        for node in self.nodes:
            after = {task for place in node.parents for task in members[place]}
            begin = len(self.tasks)
            for _ in range(1 if node.size is None else node.size):
                self.tasks.append(ModelTask(set(after), node.when, bool(node.parents)))
            members.append(range(begin, len(self.tasks)))
        for task in self.tasks:
            self._wait(task)
        self.settle()

    @staticmethod
    def _wait(task: ModelTask) -> None:
        task.state, task.job = ("waiting", "pending") if task.waits else ("released", "available")

    @property
    def states(self) -> list[tuple[str, str]]:
        return [(task.state, task.job) for task in self.tasks]

    @property
    def has_ended(self) -> bool:
        return not any(task.is_open for task in self.tasks)

    def count(self, ends: Mapping[int, str]) -> None:
        """Count tasks that have ended, by the states of their jobs."""
        for place, job in ends.items():
            task = self.tasks[place]
            if task.is_open:
                task.state = "completed" if job == "completed" else "failed"
        self.settle()

    def settle(self) -> None:
        """Decide all tasks that wait, until none can be decided."""
        while any(self._decide(task) for task in self.tasks):
            pass

    def _decide(self, task: ModelTask) -> bool:
        if task.state != "waiting" or task.job != "pending":
            return False
        states = {self.tasks[place].state for place in task.after}
        is_early = task.when == "failed" and "failed" in states
        if states & set(OPEN) and not is_early:
            return False
        state = "failed" if self.is_cancelled else self._decision(task.when, states)
        task.state = state
        task.job = "available" if state == "released" else "cancelled"
        return True

    @staticmethod
    def _decision(when: str, states: set[str]) -> str:
        if when == "ended":
            return "released"
        if when == "failed":
            return "released" if "failed" in states else "skipped"
        if "failed" in states:
            return "failed"
        return "skipped" if "skipped" in states else "released"

    def maintain(self) -> None:
        """Count all that has ended, and cancel the rest of a cancelled flow."""
        self.count({place: task.job for place, task in enumerate(self.tasks) if task.job in ENDED_JOBS})
        if self.is_cancelled and not self.has_ended:
            self.cancel()

    def cancel(self) -> None:
        if self.has_ended:
            return
        self.is_cancelled = True
        cancelled = [
            place
            for place, task in enumerate(self.tasks)
            if task.is_open and task.job not in (*ENDED_JOBS, "running")
        ]
        for place in cancelled:
            self.tasks[place].job = "cancelled"
        self.count(dict.fromkeys(cancelled, "cancelled"))

    def can_retry(self, mode: str) -> bool:
        """Return whether each task that a retry runs again has its job; `failed_only` leaves out those that have none."""
        return mode == "failed_only" or all(task.job != "deleted" for task in self._chosen(mode))

    def retry(self, mode: str) -> None:
        again = [task for task in self._chosen(mode) if task.job in ENDED_JOBS and task.job != "deleted"]
        for task in again:
            self._wait(task)
        if again:
            self.is_cancelled = False
            self.settle()

    def _chosen(self, mode: str) -> list[ModelTask]:
        """Return the tasks that have ended and run again, in order."""
        chosen = {place for place in range(len(self.tasks)) if self._is_chosen(place, mode)}
        while mode == "failed_and_downstream":
            more = {place for place, task in enumerate(self.tasks) if task.after & chosen} - chosen
            if not more:
                break
            chosen |= more
        return [self.tasks[place] for place in sorted(chosen) if not self.tasks[place].is_open]

    def _is_chosen(self, place: int, mode: str) -> bool:
        task = self.tasks[place]
        if mode == "all":
            return True
        by_another = task.when == "completed" and "failed" in {self.tasks[one].state for one in task.after}
        return task.state == "failed" and not by_another

    def add(self, adder: int, num: int) -> None:
        """Add tasks: what waits for the task that adds them waits for them too."""
        for _ in range(num):
            for task in self.tasks:
                if adder in task.after:
                    task.after.add(len(self.tasks))
            self.tasks.append(ModelTask(set(), "completed", waits=False))

    def count_of(self, *states: str) -> int:
        return sum(task.state in states for task in self.tasks)

    def counts(self) -> tuple[int, int, int, int, bool, bool]:
        """Return what the flow must count: tasks, open, failed and skipped ones, and whether it is cancelled and ended."""
        return (
            len(self.tasks),
            self.count_of(*OPEN),
            self.count_of("failed"),
            self.count_of("skipped"),
            self.is_cancelled,
            self.has_ended,
        )

    def with_jobs(self, states: Iterable[str]) -> list[int]:
        wanted = set(states)
        return [place for place, task in enumerate(self.tasks) if task.job in wanted]
