"""Workers: the function for each kind of job, and how to call it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
)

import msgspec

from millhand.core.args.adapters import ArgsType
from millhand.core.args.codec import (
    KIND_CHARACTERS,
    KIND_LENGTH_MAX,
    KIND_RE,
    FunctionArgs,
    decoder_of,
    kind_of,
)
from millhand.core.args.secret_fields import secret_decoder, secret_field_names
from millhand.core.args.secret_keys import SecretKeys
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.hooks import Hook, Middleware
from millhand.core.insert_opts import InsertOpts
from millhand.core.other_keywords import NoKeywords, refuse_add_keywords
from millhand.core.result import plain_output
from millhand.core.retry import RetryPolicy
from millhand.core.worker_job import Args, Job

NO_TIMEOUT: Final = timedelta(seconds=-1)
"""Sets no timeout, where None would mean the default one. Source: River's own sentinel."""

Work = Any  # what was decorated: a function, or an object with a method `work`

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

# A parameter cannot have these names, because they are attributes of the generated args class.
_RESERVED_PARAMETERS = frozenset({"kind", "insert_opts"})

# How tasks of Celery, Dramatiq, RQ, procrastinate, Django and Taskiq are inserted, and what people try here.
_INSERTS_ELSEWHERE = (
    *("apply", "apply_async", "delay", "delay_on_commit", "s", "si", "signature"),
    *("defer", "defer_async", "enqueue", "kiq", "send", "send_with_options"),
    *("insert", "insert_many"),
)


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """
    One registration: what the engine needs to work jobs of these kinds.

    Attributes:
        kinds: The kind, then its aliases.
        call: Takes the job with its args decoded. Returns an awaitable if `is_async`; else it runs in a thread.
        decode: Returns the args, of `args_type`, from JSON text without encrypted fields, or raises InvalidJob.
        timeout: None means the client's.
        keep_completed: None means the queue's.
    """

    kind: str
    kinds: tuple[str, ...]
    args_type: ArgsType
    is_async: bool
    call: Callable[[Job[Any]], Any]
    decode: Callable[[str], Any]
    name: str
    timeout: timedelta | None = None
    retry: RetryPolicy | None = None
    middleware: tuple[Middleware, ...] = ()
    hooks: tuple[Hook, ...] = ()
    keep_completed: bool | None = None

    def decoder(self, kind: str, secret_keys: SecretKeys | None) -> Callable[[str], Any]:
        """Return `decode` for jobs of `kind`, the worker's or an alias. Secret fields are decrypted first."""
        return secret_decoder(self.decode, self.args_type, kind, secret_keys)


class WorkerObject(Protocol[Args]):
    """An object with a method `work(job)`; for a worker that needs state."""

    @property
    def work(self) -> Callable[[Job[Args]], Any]: ...


class JobFunction(Generic[P, R_co]):
    """A worker function with plain parameters. Call it as before, or make the args of a job with `args(…)`."""

    __slots__ = ("__wrapped__", "_args_class", "_signature")

    def __init__(
        self, function: Callable[P, R_co], args_class: type[FunctionArgs], signature: inspect.Signature
    ) -> None:
        self.__wrapped__ = function
        self._args_class = args_class
        self._signature = signature

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.__wrapped__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"JobFunction(kind={self.kind!r}, function={_qualified_name(self.__wrapped__)})"

    if not TYPE_CHECKING:  # type checkers report each of these names

        def __getattr__(self, name: str) -> NoReturn:
            if name not in _INSERTS_ELSEWHERE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            called = self.__wrapped__.__name__
            raise AttributeError(
                f"worker function {called} has no {name}; write `await client.insert({called}.args(…))`"
            )

    def args(self, *args: P.args, **kwargs: P.kwargs) -> FunctionArgs:
        """
        Return the args of a job that calls the function with these parameters. The insert checks their types.

        Raises: InvalidJob if the function does not take such parameters.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidJob(
                f"args of kind {self.kind!r} must fit {self._signature}, got: {error}"
            ) from error
        return self._args_class(**bound.arguments)

    @property
    def kind(self) -> str:
        """The kind of its jobs."""
        return self._args_class.kind


class Registration(Protocol):
    """The decorator that `Workers.add` returns."""

    @overload
    def __call__(self, work: Callable[[Job[Args]], R], /) -> Callable[[Job[Args]], R]: ...

    @overload
    def __call__(self, work: Callable[P, R], /) -> JobFunction[P, R]: ...

    @overload
    def __call__(self, work: WorkerObject[Args], /) -> WorkerObject[Args]: ...


class Workers:
    """
    The workers of a client, by kind.

        workers = Workers()

        @workers.add(timeout=timedelta(seconds=30))
        async def send_email(job: Job[SendEmail]) -> None: ...

        @workers.add()
        def resize(key: str, width: int) -> None: ...      # inserted as resize.args("a.png", width=80)

    Args:
        skip_kind_validation: Allow kinds of any form. River's other clients may reject them.

    Concurrency: register before the client starts. A running client does not fetch kinds that are added later.
    """

    __slots__ = ("_by_kind", "_kinds", "_skip_kind_validation", "_workers")

    def __init__(self, *, skip_kind_validation: bool = False) -> None:
        self._by_kind: dict[str, Worker] = {}
        self._kinds: tuple[str, ...] = ()
        self._skip_kind_validation = skip_kind_validation
        self._workers: list[Worker] = []

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __contains__(self, kind: object) -> bool:
        return kind in self._by_kind

    @property
    def by_kind(self) -> Mapping[str, Worker]:
        """The workers by kind and alias, also those that are added later."""
        return self._by_kind

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds and aliases, sorted."""
        return self._kinds

    def get(self, kind: str) -> Worker | None:
        """Return the worker of a kind or alias; None if there is none."""
        return self._by_kind.get(kind)

    def add(
        self,
        work: None = None,
        /,
        *,
        kind: str | None = None,
        aliases: Sequence[str] = (),
        timeout: timedelta | None = None,
        retry: RetryPolicy | None = None,
        middleware: Sequence[Middleware] = (),
        hooks: Sequence[Hook] = (),
        insert_opts: InsertOpts | None = None,
        keep_completed: bool | None = None,
        output: bool = False,
        **other: Unpack[NoKeywords],
    ) -> Registration:
        """
        Return a decorator that registers a worker.

        A worker is a function of one `Job[…]`, a function with plain parameters, or an object with a method
        `work(job: Job[…])`. Coroutine functions run on the event loop, plain functions in a thread.

        Args:
            work: Leave it out: `@workers.add` without brackets raises an error.
            kind: The kind of a function with plain parameters; its name by default. An args class has its own.
            aliases: Further kinds that the worker works, such as the old name of a renamed kind.
            timeout: How long an attempt may run; the client's `job_timeout` by default, `NO_TIMEOUT` for no limit.
            retry: When its failed jobs are attempted again; the client's policy by default.
            middleware: Called around its attempts, outside of the client's.
            hooks: Called before and after its attempts.
            insert_opts: Options of all inserts of a function with plain parameters. An args class has its own.
            keep_completed: Whether the rows of its completed jobs are kept; by default the queue or the client says.
            output: Record what the function returns as the job's output, as `job.record_output` does.

        Raises: ConfigError, from the decorator if the worker is invalid. Nothing is registered then.
        """
        if work is not None:
            raise ConfigError(
                f"workers.add must have brackets, got {_qualified_name(work)} without; write @workers.add()"
            )
        if other:
            refuse_add_keywords(other)
        if isinstance(aliases, str):
            raise ConfigError(f"aliases must be a list of texts, got {aliases!r}; write [{aliases!r}]")
        if timeout is not None:
            check_timeout("timeout of a worker", timeout)
        _check_parts(retry, middleware, hooks)
        parts = {
            "timeout": timeout,
            "retry": retry,
            "middleware": tuple(middleware),
            "hooks": tuple(hooks),
            "keep_completed": keep_completed,
        }
        options = _Options(kind, tuple(aliases), insert_opts, output, parts)

        def register(work: Work, /) -> Work:
            return self._register(work, options, sys._getframe(1).f_locals)  # noqa: SLF001

        return cast(Registration, register)

    def copy(self) -> Workers:
        """Return a registry of the same workers. Neither gets what is added to the other later."""
        copied = Workers(skip_kind_validation=self._skip_kind_validation)
        copied.include(self)
        return copied

    def include(self, workers: Iterable[Worker]) -> None:
        """
        Register the workers of another registry: `workers.include(other_module.workers)`.

        Raises: ConfigError for a kind that is registered already. Workers before it stay registered.
        """
        for worker in workers:
            self._add(worker)

    def _register(self, work: Work, options: _Options, local_names: Mapping[str, Any]) -> Work:
        target = _callable_of(work)
        parameters, signature = _parameters(target, local_names)
        args_type = _args_type(parameters, target)
        if args_type is None:
            args_class = _args_class(target, parameters, options)
            worker = _worker(target, _call_with_parameters(target, parameters), args_class, options)
            registered: Any = JobFunction(target, args_class, signature)
        else:
            if options.insert_opts is not None:
                raise ConfigError(
                    f"insert_opts must be set on the args class, got them on worker {_qualified_name(target)}; "
                    "write `insert_opts: ClassVar[InsertOpts] = …` there"
                )
            worker = _worker(target, target, args_type, options)
            registered = work
        self._add(worker)
        return registered

    def _add(self, worker: Worker) -> None:
        if len(set(worker.kinds)) < len(worker.kinds):
            raise ConfigError(f"kinds of worker {worker.name} must differ, got {worker.kinds!r}")
        for kind in worker.kinds:
            if kind in self._by_kind:
                raise ConfigError(
                    f"kind must be registered once, got {kind!r} of worker {worker.name}, "
                    f"which is registered for {self._by_kind[kind].name}"
                )
            if not self._skip_kind_validation and not KIND_RE.fullmatch(kind):
                raise ConfigError(
                    f"kind must be 2 to {KIND_LENGTH_MAX} {KIND_CHARACTERS}, got {kind!r} of worker {worker.name}"
                )
        self._by_kind.update(dict.fromkeys(worker.kinds, worker))
        self._kinds = tuple(sorted(self._by_kind))
        self._workers.append(worker)


class _Options(msgspec.Struct, frozen=True):
    kind: str | None
    aliases: tuple[str, ...]
    insert_opts: InsertOpts | None
    records_output: bool
    parts: dict[str, Any]  # further fields of Worker


def _callable_of(work: Work) -> Callable[..., Any]:
    target = work if callable(work) else getattr(work, "work", None)
    is_class = isinstance(work, type)
    if is_class or not callable(target):
        remedy = f"; register one of its objects, as in workers.add(…)({work.__name__}())" if is_class else ""
        raise ConfigError(
            f"worker must be a function, or an object with a method `work`, got {work!r}{remedy}"
        )
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise ConfigError(f"worker must return, not yield, got generator function {_qualified_name(target)}")
    return cast("Callable[..., Any]", target)


def _parameters(
    target: Callable[..., Any], local_names: Mapping[str, Any]
) -> tuple[list[inspect.Parameter], inspect.Signature]:
    """Return the parameters with their annotations resolved, and the signature as written."""
    signature = inspect.signature(target)
    hints = _hints(target, local_names)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(
                f"parameters of worker {_qualified_name(target)} must have names, got {str(parameter)!r}"
            )
        if parameter.name not in hints:
            raise ConfigError(
                f"parameters of worker {_qualified_name(target)} must be annotated, got {parameter.name!r} without; "
                "write `job: Job[YourArgs]`, or the type of a plain parameter"
            )
        parameters.append(parameter.replace(annotation=hints[parameter.name]))
    return parameters, signature


def _hints(target: Callable[..., Any], local_names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved annotations. `local_names` are those of the function that contains the decorated one."""
    function = inspect.unwrap(target.func if isinstance(target, functools.partial) else target)
    if not inspect.isroutine(function):
        function = type(function).__call__
    try:
        return typing.get_type_hints(function, localns=dict(local_names), include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"annotations of worker {_qualified_name(target)} must be known when it is registered, got: {error}"
        ) from error


def _args_type(parameters: Sequence[inspect.Parameter], target: Callable[..., Any]) -> ArgsType | None:
    """Return the type in the brackets of `Job[…]`, or None for a function with plain parameters."""
    jobs = [one for one in parameters if (typing.get_origin(one.annotation) or one.annotation) is Job]
    if not jobs:
        _refuse_args_alone(parameters, target)
        return None
    if len(parameters) > 1 or jobs[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigError(
            f"worker {_qualified_name(target)} must take the job alone, or plain parameters alone, "
            f"got {', '.join(one.name for one in parameters)}"
        )
    return (*typing.get_args(jobs[0].annotation), Any)[0]


def _refuse_args_alone(parameters: Sequence[inspect.Parameter], target: Callable[..., Any]) -> None:
    """Raise ConfigError for `args: Mail` where `job: Job[Mail]` is meant: its jobs would be of another kind than Mail's."""
    if len(parameters) != 1 or not isinstance(parameters[0].annotation, type):
        return
    name, cls = parameters[0].name, parameters[0].annotation.__name__
    with contextlib.suppress(InvalidJob):  # no args class, but a plain type
        kind_of(parameters[0].annotation)
        raise ConfigError(
            f"worker {_qualified_name(target)} must take the job of args class {cls}, got {name}: {cls}; "
            f"write {name}: Job[{cls}]"
        )


def _args_class(
    target: Callable[..., Any], parameters: Sequence[inspect.Parameter], options: _Options
) -> type[FunctionArgs]:
    """Return a new struct with the parameters of a function as fields, named as the function."""
    reserved = _RESERVED_PARAMETERS.intersection(one.name for one in parameters)
    if reserved:
        raise ConfigError(
            f"parameter of worker {_qualified_name(target)} must not be called {min(reserved)!r}; rename it"
        )
    fields: list[Any] = [
        (one.name, one.annotation, msgspec.NODEFAULT if one.default is one.empty else one.default)
        for one in parameters
    ]
    name = getattr(target, "__name__", type(target).__name__)
    namespace = {"kind": options.kind or name, "insert_opts": options.insert_opts}
    module = target.__module__
    try:
        made = msgspec.defstruct(
            name, fields, bases=(FunctionArgs,), namespace=namespace, module=module, frozen=True, kw_only=True
        )
    except TypeError as error:
        raise ConfigError(
            f"parameters of worker {_qualified_name(target)} must be usable as args, got: {error}"
        ) from error
    return cast("type[FunctionArgs]", made)


def _call_with_parameters(
    target: Callable[..., Any], parameters: Sequence[inspect.Parameter]
) -> Callable[[Job[Any]], Any]:
    """Return a function of the job that calls `target` with its args as parameters."""
    positional = tuple(one.name for one in parameters if one.kind is not one.KEYWORD_ONLY)
    keyword = tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)

    def call(job: Job[Any]) -> object:
        args = job.args
        return target(
            *[getattr(args, name) for name in positional], **{name: getattr(args, name) for name in keyword}
        )

    return call


def _worker(
    target: Callable[..., Any], call: Callable[[Job[Any]], Any], args_type: ArgsType, options: _Options
) -> Worker:
    kind = _kind(target, args_type, options.kind)
    try:
        decode = decoder_of(args_type, kind)
        secret_field_names(args_type)
    except InvalidJob as error:
        raise ConfigError(f"args of worker {_qualified_name(target)}: {error}") from None
    except Exception as error:  # msgspec and pydantic raise different errors for a type
        is_plain = (
            isinstance(args_type, type)
            and "__init__" not in vars(args_type)
            and bool(getattr(args_type, "__annotations__", None))
        )
        remedy = f"; write @dataclass(frozen=True) above class {args_type.__name__}" if is_plain else ""
        raise ConfigError(
            f"args of worker {_qualified_name(target)} must be decodable from JSON, got: {error}{remedy}"
        ) from error
    is_async = inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(type(target).__call__)
    if options.records_output:
        call = _recording_async(call) if is_async else _recording(call)
    return Worker(
        kind=kind,
        kinds=(kind, *options.aliases),
        args_type=args_type,
        is_async=is_async,
        call=call,
        decode=decode,
        name=_qualified_name(target),
        **options.parts,
    )


def _recording_async(call: Callable[[Job[Any]], Any]) -> Callable[[Job[Any]], Any]:
    async def call_and_record(job: Job[Any]) -> None:
        job.record_output(plain_output(await call(job)))

    return call_and_record


def _recording(call: Callable[[Job[Any]], Any]) -> Callable[[Job[Any]], Any]:
    def call_and_record(job: Job[Any]) -> object:
        returned = call(job)
        if inspect.iscoroutine(returned):  # the executor refuses it
            return returned
        job.record_output(plain_output(returned))
        return None

    return call_and_record


def _kind(target: Callable[..., Any], args_type: ArgsType, given: str | None) -> str:
    try:
        own = kind_of(args_type)
    except InvalidJob as error:
        if given is None and args_type is Any:
            raise ConfigError(
                f"worker {_qualified_name(target)} must name the args class of its job, got Job alone; "
                "write `job: Job[YourArgs]`, or @workers.add(kind=…) for args of any form"
            ) from error
        if given is None:
            raise ConfigError(f"worker {_qualified_name(target)} must have a kind: {error}") from error
        return given
    if given is not None and given != own:
        raise ConfigError(
            f"kind of worker {_qualified_name(target)} must be that of its args class, {own!r}, got {given!r}; "
            "for a further kind use aliases"
        )
    return own


def check_timeout(subject: str, timeout: timedelta) -> None:
    """Raise ConfigError, beginning with `subject`, if `timeout` is no positive duration and not `NO_TIMEOUT`."""
    if not isinstance(timeout, timedelta):
        raise ConfigError(f"{subject} must be a timedelta, got {timeout!r}; write timedelta(seconds=…)")
    if timeout <= timedelta(0) and timeout != NO_TIMEOUT:
        raise ConfigError(f"{subject} must be positive, got {timeout!r}; NO_TIMEOUT is for none")


def _check_parts(retry: RetryPolicy | None, middleware: Sequence[Middleware], hooks: Sequence[Hook]) -> None:
    if isinstance(retry, type) or (retry is not None and not hasattr(retry, "next_retry_at")):
        raise ConfigError(f"retry of a worker must be an object with a method next_retry_at, got {retry!r}")
    for name, parts, wanted in (("hooks", hooks, Hook), ("middleware", middleware, Middleware)):
        for part in parts:
            if not isinstance(part, wanted):
                raise ConfigError(f"{name} of a worker must be instances of {wanted.__name__}, got {part!r}")


def _qualified_name(target: object) -> str:
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{named.__module__}.{named.__qualname__}"
