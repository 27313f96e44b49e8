"""
Describe what was passed in place of args, and what to write.

Other libraries insert by the function. Their users pass the worker function, the result of its call, or the args class.
"""

from __future__ import annotations

import inspect
import reprlib
from typing import Any

from millhand.core.job import JobRow

Passed = Any  # whatever a caller passed


def not_args(passed: Passed) -> str | None:
    """Return an error's text for what is no value of an args class; None if its class may only lack a kind."""
    described = _described_value(passed) or _described_callable(passed)
    if described is None:
        return None
    what, remedy = described
    return f"args must be a value of an args class, got {what}; {remedy}"


def _described_value(passed: Passed) -> tuple[str, str] | None:
    match passed:
        case None:
            return "None", "do not call the function of a job, write function.args(…)"
        case str():
            kind = reprlib.repr(passed)
            return kind, f"for a kind without a class write RawArgs({kind}, '{{…}}')"
        case dict():
            return "a dict", "for a kind without a class write RawArgs('kind', json.dumps(…))"
        case list() | tuple() | set():
            return f"a {type(passed).__name__}", "for several jobs write insert_many([…])"
        case JobRow():
            return "a JobRow", "to work its job again write client.jobs.retry(row.id)"
    return ("a Job", "write job.args") if _is_job(passed) else None


def _is_job(passed: Passed) -> bool:
    """Return whether something is the `Job` of a worker, which stands above this module."""
    return isinstance(getattr(passed, "row", None), JobRow)


def _described_callable(passed: Passed) -> tuple[str, str] | None:
    if inspect.iscoroutine(passed):
        return f"a call of {passed.__qualname__}", f"write {_args_of_call(passed)}"
    if _makes_args(passed):
        name = _name(passed.__wrapped__)
        return f"worker function {name}", f"write {name}.args(…)"
    owner: Passed = getattr(passed, "__self__", None)
    if _makes_args(owner):
        name = _name(owner.__wrapped__)
        return f"method {name}.args", f"write {name}.args(…)"
    if args_class := _args_class_of(passed):
        return f"worker function {_name(passed)}", f"write {args_class}(…)"
    if args_class := _args_class_of(getattr(passed, "work", None)):
        worker = passed if isinstance(passed, type) else type(passed)
        return f"worker {_name(worker)}", f"write {args_class}(…)"
    if isinstance(passed, type):
        has_kind = isinstance(getattr(passed, "kind", None), str)
        return (f"class {_name(passed)}", f"write {_name(passed)}(…)") if has_kind else None
    if inspect.isroutine(passed):
        name = _name(passed)
        return f"function {name}", f"decorate it with @workers.add() and write {name}.args(…)"
    return None


def _makes_args(passed: Passed) -> bool:
    """Return whether something is a worker function with plain parameters, which makes its args itself."""
    return hasattr(passed, "__wrapped__") and callable(getattr(passed, "args", None))


def _args_of_call(coroutine: Passed) -> str:
    """Return the call that makes the args, and close the coroutine, so that Python does not report it again."""
    frame = coroutine.cr_frame
    parameters = [] if frame is None else list(frame.f_locals.values())
    if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
        coroutine.close()
    of_jobs = [one.args if _is_job(one) else one for one in parameters]
    classes = [_name(type(one)) for one in of_jobs if hasattr(type(one), "kind")]
    return f"{(*classes, f'{coroutine.__name__}.args')[0]}(…)"


def _args_class_of(function: Passed) -> str | None:
    """Return the name in the brackets of a `Job[…]` parameter, if there is one. The annotation may be a text."""
    for annotation in getattr(function, "__annotations__", {}).values():
        _, found, rest = str(annotation).rpartition("Job[")
        if found:
            return rest.rstrip("]").rpartition(".")[2]
    return None


def _name(named: Passed) -> str:
    """Return the name that a caller writes: without the function in which it is defined."""
    name: str = getattr(named, "__qualname__", type(named).__qualname__)
    return name.rpartition("<locals>.")[2]
