"""The result of a job: what its worker recorded as output, encoded and decoded."""

from __future__ import annotations

from typing import Any, TypeVar, cast, overload

import msgspec

from millhand.core.args.adapters import ArgsType, adapter_of
from millhand.core.errors import ConfigError, InvalidJob, InvalidOutput, JobCancelled, JobFailed, JobNotEnded
from millhand.core.job import OUTPUT_KEY, JobRow, JobState, Json

T = TypeVar("T")
ResultType = Any  # a type that JSON decodes into


@overload
def result_of(job: JobRow, returns: type[T]) -> T: ...
@overload
def result_of(job: JobRow, returns: ResultType = None) -> Json: ...
def result_of(job: JobRow, returns: ResultType = None) -> Json:
    """
    Return the output of a job that completed, decoded as `returns`.

    Args:
        returns: A dataclass, a msgspec Struct, a pydantic model, or a type such as `list[int]`. None returns the output as
            plain JSON values, and None for a job without an output.

    Raises:
        JobFailed: If the job was discarded.
        JobCancelled: If it was cancelled.
        JobNotEnded: If it still waits or runs.
        InvalidOutput: If it has no output, or one that does not decode as `returns`.
        ConfigError: If nothing can be decoded into `returns`.
    """
    _require_completed(job)
    if returns is None:
        return job.output
    check_returns(returns)
    if OUTPUT_KEY not in job.metadata:
        raise InvalidOutput(
            f"job {job.id} of kind {job.kind!r} must have an output, got none; write @workers.add(output=True), or "
            "call job.record_output in its worker"
        )
    encoded = msgspec.json.encode(job.output).decode()
    return decode_output(encoded, f"output of job {job.id} of kind {job.kind!r}", returns)


def decode_output(encoded: str, subject: str, returns: ResultType) -> Json:
    """Return the JSON text of an output, decoded as `returns`. Raises: InvalidOutput, which names `subject`."""
    if returns is None:
        return msgspec.json.decode(encoded)
    try:
        return adapter_of(returns).decode(encoded, subject)
    except InvalidJob as error:
        raise InvalidOutput(str(error)) from error


def check_returns(returns: ResultType) -> None:
    """Raise ConfigError if no output can be decoded into `returns`."""
    if returns is None:
        return
    try:
        adapter_of(returns)
    except Exception as error:  # msgspec and pydantic raise different errors for a type
        raise ConfigError(
            f"returns must be a type that JSON decodes into, got {returns!r}: {error}"
        ) from error


def plain_output(value: object) -> Json:
    """
    Return what a worker function returned as plain JSON values; pydantic models may be anywhere in it.

    Raises: ValueError if it does not encode to JSON.
    """
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_to_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"output must be encodable as JSON, got {type(value).__name__}: {error}") from error


def _to_plain(value: object) -> Json:
    if not hasattr(type(value), "__pydantic_validator__"):
        raise TypeError(f"objects of type {type(value).__name__} are not supported")
    return adapter_of(cast(ArgsType, type(value))).to_plain(value)


def _require_completed(job: JobRow) -> None:
    if job.state is JobState.COMPLETED:
        return
    last = job.errors[-1].error if job.errors else None
    if job.state is JobState.DISCARDED:
        raise JobFailed(job.id, job.kind, num_attempts=job.attempt, error=last)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job.id, job.kind, num_attempts=job.attempt, error=last)
    raise JobNotEnded(job.id, job.state.value)
