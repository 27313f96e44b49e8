"""The types of `client.jobs`, `client.queues` and all others that control what runs."""

from millhand.dead_jobs.control import DeadJobControl
from millhand.engine.control import ClientControl, JobControl, JobPage, QueueControl
from millhand.flows.control import FlowControl
from millhand.limits.control import LimitControl
from millhand.schedules.control import ScheduleControl

__all__ = [
    "ClientControl",
    "DeadJobControl",
    "FlowControl",
    "JobControl",
    "JobPage",
    "LimitControl",
    "QueueControl",
    "ScheduleControl",
]
