from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from language_values import NOW, insert_params, row

from millhand.core.args.codec import KIND_CHARACTERS, encode_args
from millhand.core.errors import ConfigError, InvalidJob
from millhand.core.hooks import Hook, Middleware
from millhand.core.insert_opts import InsertOpts
from millhand.core.retry import ConstantRetryPolicy
from millhand.core.unique import Unique, UniqueOpts
from millhand.core.worker import NO_TIMEOUT, JobFunction, Worker, Workers
from millhand.core.worker_job import Job


@dataclass(frozen=True)
class SendEmail:
    kind: ClassVar[str] = "send_email"
    to: str
    subject: str = ""


@dataclass(frozen=True)
class Other:
    kind: ClassVar[str] = "other"


async def send(job: Job[SendEmail]) -> str:
    return f"{job.kind} to {job.args.to}"


def called(worker: Worker, encoded_args: str) -> Any:
    """Call a worker as the engine does, and return its result."""
    result = worker.call(Job(row(kind=worker.kind), worker.decode(encoded_args)))
    if not worker.is_async:
        return result
    with pytest.raises(StopIteration) as returned:  # none of these coroutines waits for anything
        result.send(None)
    return returned.value.value


def test_workers_keep_the_options_of_a_function() -> None:
    """A registration has everything that the engine needs."""
    workers = Workers()
    policy, middleware, hook = ConstantRetryPolicy(timedelta(seconds=1)), Middleware(), Hook()

    registered = workers.add(
        aliases=["send_mail"],
        timeout=timedelta(seconds=30),
        retry=policy,
        middleware=[middleware],
        hooks=[hook],
    )(send)

    worker = workers.get("send_email")
    assert registered is send
    assert worker == Worker(
        kind="send_email",
        kinds=("send_email", "send_mail"),
        args_type=SendEmail,
        is_async=True,
        call=send,
        decode=worker.decode if worker else None,  # type: ignore[arg-type]
        name=f"{__name__}.send",
        timeout=timedelta(seconds=30),
        retry=policy,
        middleware=(middleware,),
        hooks=(hook,),
    )


def test_workers_are_found_by_kind_and_alias() -> None:
    """Kinds and aliases are sorted; a worker counts once."""
    workers = Workers()
    workers.add(aliases=["a_mail", "z_mail"])(send)

    assert workers.kinds == ("a_mail", "send_email", "z_mail")
    assert (len(workers), "a_mail" in workers, "nothing" in workers) == (1, True, False)
    assert workers.get("a_mail") is workers.get("z_mail") is workers.get("send_email")
    assert workers.get("nothing") is None
    assert [worker.kind for worker in workers] == ["send_email"]


def plain(job: Job[SendEmail]) -> str:
    return f"{job.args.to} in a thread"


class Mailer:
    def __init__(self, host: str) -> None:
        self.host = host

    async def work(self, job: Job[SendEmail]) -> str:
        return f"{job.args.to} by {self.host}"


class CallableMailer:
    async def __call__(self, job: Job[SendEmail]) -> str:
        return f"{job.args.to} by call"


def with_more(host: str, job: Job[SendEmail]) -> str:
    return f"{job.args.to} by {host}"


@pytest.mark.parametrize(
    ("work", "is_async", "result"),
    [
        (send, True, "send_email to a@b"),
        (plain, False, "a@b in a thread"),
        (Mailer("host"), True, "a@b by host"),
        (Mailer("host").work, True, "a@b by host"),
        (CallableMailer(), True, "a@b by call"),
        (functools.partial(with_more, "part"), False, "a@b by part"),
    ],
    ids=["coroutine function", "function", "object", "method", "callable", "partial"],
)
def test_workers_take_functions_methods_and_objects(work: Any, *, is_async: bool, result: str) -> None:
    """The registration records whether the engine must await the result."""
    workers = Workers()

    assert workers.add()(work) is work

    worker = workers.get("send_email")
    assert worker is not None
    assert worker.is_async is is_async
    assert called(worker, '{"to": "a@b"}') == result


def resize(key: str, width: int = 80, *, mode: str | None = None) -> tuple[str, int, str | None]:
    """Make it smaller."""
    return key, width, mode


async def resize_async(key: str, /, width: int) -> tuple[str, int]:
    return key, width


def test_workers_make_args_of_plain_parameters() -> None:
    """A function with plain parameters stays callable, and makes args of its parameters."""
    workers = Workers()
    registered = workers.add()(resize)

    args = registered.args("a.png", mode="fit")

    worker = workers.get("resize")
    assert worker is not None
    assert registered("a.png", 3) == ("a.png", 3, None)
    assert encode_args(args) == '{"key":"a.png","width":80,"mode":"fit"}'
    assert called(worker, encode_args(args)) == ("a.png", 80, "fit")
    assert called(worker, '{"key": "b.png"}') == ("b.png", 80, None)
    assert (registered.kind, registered.__wrapped__) == ("resize", resize)
    assert repr(registered) == f"JobFunction(kind='resize', function={__name__}.resize)"


def test_workers_name_a_function_by_another_kind() -> None:
    """The kind of a function with plain parameters is its name unless one is given."""
    workers = Workers()
    registered = workers.add(kind="image.resize")(resize_async)

    worker = workers.get("image.resize")
    assert worker is not None
    assert insert_params(registered.args("a", 1), now=NOW).kind == "image.resize"
    assert called(worker, '{"key": "a", "width": 1}') == ("a", 1)


def test_workers_take_a_function_without_parameters() -> None:
    """Its args are an empty object."""
    workers = Workers()

    @workers.add()
    def tidy() -> str:
        return "tidy"

    worker = workers.get("tidy")
    assert worker is not None
    assert encode_args(tidy.args()) == "{}"
    assert called(worker, "{}") == "tidy"


def test_workers_keep_insert_options_of_a_function() -> None:
    """A function with plain parameters has insert options, and can mark parameters as unique."""
    workers = Workers()

    @workers.add(insert_opts=InsertOpts(queue="images", unique=UniqueOpts(by_args=True)))
    def shrink(key: Annotated[str, Unique], width: int) -> None: ...

    one, other = (insert_params(shrink.args("a.png", width), now=NOW) for width in (1, 2))
    assert (one.queue, one.unique_key) == ("images", other.unique_key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"key": "a", "height": 1},
            (
                "args of kind 'resize' must fit (key: 'str', width: 'int' = 80, *, mode: 'str | None' = None) -> "
                "'tuple[str, int, str | None]', got: got an unexpected keyword argument 'height'"
            ),
        )
    ],
)
def test_job_function_rejects_parameters_it_does_not_have(arguments: dict[str, Any], message: str) -> None:
    """`args` takes the parameters that a call would take."""
    registered: JobFunction[..., Any] = Workers().add()(resize)

    with pytest.raises(InvalidJob) as refusal:
        registered.args(**arguments)

    assert str(refusal.value) == message


def test_job_function_has_its_types_checked_on_insert() -> None:
    """A wrong type is rejected before anything is sent."""
    registered: JobFunction[..., Any] = Workers().add()(resize)

    with pytest.raises(InvalidJob) as refusal:
        insert_params(registered.args("a.png", "wide"), now=NOW)

    assert str(refusal.value) == (
        "args of kind 'resize' must decode as resize, got: Expected `int`, got `str` - at `$.width`"
    )


def test_workers_take_jobs_without_a_class() -> None:
    """A worker of `Job[Any]` with a given kind works jobs that other programs insert."""
    workers = Workers()

    @workers.add(kind="go_job")
    def work(job: Job[dict[str, int]]) -> dict[str, int]:
        return job.args

    @workers.add(kind="any_job")
    def work_any(job: Job) -> Any:  # type: ignore[type-arg]
        return job.args

    go_job, any_job = workers.get("go_job"), workers.get("any_job")
    assert go_job is not None
    assert any_job is not None
    assert called(go_job, '{"n": 1}') == {"n": 1}
    assert called(any_job, '{"n": "x"}') == {"n": "x"}
    with pytest.raises(InvalidJob, match=r"^args of kind 'go_job' must decode as dict"):
        go_job.decode('{"n": "x"}')


def test_workers_know_the_names_around_the_decorated_function() -> None:
    """A class that is local to the surrounding function may be in the brackets."""

    class Local(msgspec.Struct):
        kind: ClassVar[str] = "local"

    workers = Workers()

    @workers.add()
    async def work(job: Job[Local]) -> None: ...

    assert workers.kinds == ("local",)


def test_no_timeout_is_a_timeout() -> None:
    """NO_TIMEOUT can be set where None means the client's."""
    workers = Workers()
    workers.add(timeout=NO_TIMEOUT)(send)

    worker = workers.get("send_email")
    assert worker is not None
    assert worker.timeout == NO_TIMEOUT


def unannotated(job):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return job


def starred(*keys: str) -> None: ...


def mixed(job: Job[SendEmail], key: str) -> None: ...


def reserved(kind: str) -> None: ...


def unknown(job: Job[Missing]) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def without_kind(job: Job[dict[str, int]]) -> None: ...


def job_alone(job: Job) -> None: ...  # type: ignore[type-arg]


def undecodable(job: Job[list[Mailer]]) -> None: ...


class Plain:
    kind: ClassVar[str] = "plain"
    to: str


def without_decorator(job: Job[Plain]) -> None: ...


def args_alone(args: SendEmail) -> None: ...


def generator(job: Job[SendEmail]) -> Iterator[int]:
    yield 1


def with_list(numbers: list[int] = [1]) -> None: ...  # noqa: B006


def x(key: str) -> None: ...


@pytest.mark.parametrize(
    ("work", "options", "message"),
    [
        (
            unannotated,
            {},
            (
                f"parameters of worker {__name__}.unannotated must be annotated, got 'job' without; "
                "write `job: Job[YourArgs]`, or the type of a plain parameter"
            ),
        ),
        (starred, {}, f"parameters of worker {__name__}.starred must have names, got \"*keys: 'str'\""),
        (
            mixed,
            {},
            f"worker {__name__}.mixed must take the job alone, or plain parameters alone, got job, key",
        ),
        (reserved, {}, f"parameter of worker {__name__}.reserved must not be called 'kind'; rename it"),
        (
            unknown,
            {},
            (
                f"annotations of worker {__name__}.unknown must be known when it is registered, "
                "got: name 'Missing' is not defined"
            ),
        ),
        (
            args_alone,
            {},
            (
                f"worker {__name__}.args_alone must take the job of args class SendEmail, got args: SendEmail; "
                "write args: Job[SendEmail]"
            ),
        ),
        (
            without_kind,
            {},
            (
                f"worker {__name__}.without_kind must have a kind: args class must declare its kind as "
                "`kind: ClassVar[str] = …`, got dict without it"
            ),
        ),
        (
            job_alone,
            {},
            (
                f"worker {__name__}.job_alone must name the args class of its job, got Job alone; "
                "write `job: Job[YourArgs]`, or @workers.add(kind=…) for args of any form"
            ),
        ),
        (
            undecodable,
            {"kind": "kind"},
            (
                f"args of worker {__name__}.undecodable must be decodable from JSON, got: "
                "nothing can be decoded into Mailer"
            ),
        ),
        (
            without_decorator,
            {},
            (
                f"args of worker {__name__}.without_decorator must be decodable from JSON, got: "
                "nothing can be decoded into Plain; write @dataclass(frozen=True) above class Plain"
            ),
        ),
        (
            with_list,
            {},
            (
                f"parameters of worker {__name__}.with_list must be usable as args, got: Using a non-empty mutable "
                "collection ([1]) as a default value is unsafe. Instead configure a `default_factory` for this field."
            ),
        ),
        (
            send,
            {"kind": "mail"},
            (
                f"kind of worker {__name__}.send must be that of its args class, 'send_email', got 'mail'; "
                "for a further kind use aliases"
            ),
        ),
        (
            send,
            {"aliases": ["a b"]},
            f"kind must be 2 to 127 {KIND_CHARACTERS}, got 'a b' of worker {__name__}.send",
        ),
        (x, {}, f"kind must be 2 to 127 {KIND_CHARACTERS}, got 'x' of worker {__name__}.x"),
        (
            send,
            {"aliases": ["send_email"]},
            f"kinds of worker {__name__}.send must differ, got ('send_email', 'send_email')",
        ),
        (send, {"aliases": "mail"}, "aliases must be a list of texts, got 'mail'; write ['mail']"),
        (
            send,
            {"insert_opts": InsertOpts(priority=2)},
            (
                f"insert_opts must be set on the args class, got them on worker {__name__}.send; "
                "write `insert_opts: ClassVar[InsertOpts] = …` there"
            ),
        ),
        (generator, {}, f"worker must return, not yield, got generator function {__name__}.generator"),
        (
            Mailer,
            {},
            (
                f"worker must be a function, or an object with a method `work`, got {Mailer!r}; "
                "register one of its objects, as in workers.add(…)(Mailer())"
            ),
        ),
        (7, {}, "worker must be a function, or an object with a method `work`, got 7"),
        (send, {"timeout": 5}, "timeout of a worker must be a timedelta, got 5; write timedelta(seconds=…)"),
        (
            send,
            {"timeout": timedelta(0)},
            "timeout of a worker must be positive, got datetime.timedelta(0); NO_TIMEOUT is for none",
        ),
        (
            send,
            {"retry": ConstantRetryPolicy},
            f"retry of a worker must be an object with a method next_retry_at, got {ConstantRetryPolicy!r}",
        ),
        (send, {"hooks": [Hook]}, f"hooks of a worker must be instances of Hook, got {Hook!r}"),
        (
            send,
            {"middleware": [Hook]},
            f"middleware of a worker must be instances of Middleware, got {Hook!r}",
        ),
    ],
)
def test_workers_reject_invalid_workers(work: Any, options: dict[str, Any], message: str) -> None:
    """The error comes at the declaration, and nothing is registered."""
    workers = Workers()

    with pytest.raises(ConfigError) as refusal:
        workers.add(**options)(work)

    assert str(refusal.value) == message
    assert workers.kinds == ()


def test_workers_reject_a_second_worker_of_a_kind() -> None:
    """A worker whose alias is taken is not registered at all."""
    workers = Workers()
    workers.add()(send)

    with pytest.raises(ConfigError) as refusal:

        @workers.add(aliases=["send_email"])
        def work(job: Job[Other]) -> None: ...

    assert str(refusal.value) == (
        "kind must be registered once, got 'send_email' of worker "
        f"{__name__}.test_workers_reject_a_second_worker_of_a_kind.<locals>.work, "
        f"which is registered for {__name__}.send"
    )
    assert workers.kinds == ("send_email",)


def test_workers_skip_the_validation_of_kinds() -> None:
    """An old kind that River would reject today can still be worked."""
    workers = Workers(skip_kind_validation=True)

    workers.add(kind="x y")(x)

    assert workers.kinds == ("x y",)


def test_include_adds_the_workers_of_another_registry() -> None:
    """They keep their own options, and a kind that both have raises."""
    others, workers = Workers(), Workers()
    others.add(timeout=timedelta(seconds=3))(send)
    workers.add(kind="other")(lambda: None)
    workers.include(others)
    with pytest.raises(ConfigError) as refused:
        workers.include(others)

    assert workers.kinds == ("other", "send_email")
    assert workers.get("send_email") is others.get("send_email")
    assert str(refused.value).startswith("kind must be registered once, got 'send_email' of worker ")


def test_copy_of_workers_is_independent() -> None:
    """A copy has the same workers and the same rules, and neither gets what the other adds later."""
    original = Workers(skip_kind_validation=True)
    original.add(kind="a b")(x)
    copied = original.copy()
    copied.add(kind="c d")(x)
    original.add(kind="e f")(x)

    assert (original.kinds, copied.kinds) == (("a b", "e f"), ("a b", "c d"))
