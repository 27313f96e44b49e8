"""A wrong command line is one line of the form of all errors, at every level of commands."""

from __future__ import annotations

import pytest

from cli_runner import millhand

STATES = "'available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled'"
FAILED = "for failed jobs: --state retryable,discarded"
WRONG = {
    "jbo list": "millhand has no command 'jbo'; did you mean 'job'?",
    "wroker": "millhand has no command 'wroker'; did you mean 'worker'?",
    "list": "millhand has no command 'list'; did you mean 'job list'?",
    "retry 7": "millhand has no command 'retry'; did you mean 'job retry'?",
    "pause mail": "millhand has no command 'pause'; did you mean 'queue pause'?",
    "job lsit": "millhand job has no command 'lsit'; did you mean 'list'?",
    "kinds chek": "millhand kinds has no command 'chek'; did you mean 'check'?",
    "orphans scna --json": "millhand orphans has no command 'scna'; did you mean 'scan'?",
    "queue 7": "millhand queue has no command '7'; known: 'list', 'pause', 'resume'",
    "--conifg x job list": "millhand has no option '--conifg'; did you mean '--config'?",
    "job list --sate running": "millhand job list has no option '--sate'; did you mean '--state'?",
    "job list --nonsense": "millhand job list has no option '--nonsense'; see: millhand job list --help",
    "job list -q": "millhand job list has no option '-q'; see: millhand job list --help",
    "worker --concurrency 10": (
        "millhand worker has no option '--concurrency'; write --queue NAME:N for N jobs at a time, such as "
        "--queue default:10"
    ),
    "worker -A shop": (
        "millhand worker has no option '-A'; name your configuration, such as millhand worker shop.jobs:config"
    ),
    "worker -Q mail": "millhand worker has no option '-Q'; did you mean '--queue'?",
    "job list -c 1": "millhand job list has no option '-c'; see: millhand job list --help",
    "job list --state avialable": f"--state must be one of {STATES}, got 'avialable'; did you mean 'available'?",
    "job list --state running,x": f"--state must be one of {STATES}, got 'x'",
    "job list --state failed": f"--state must be one of {STATES}, got 'failed'; {FAILED}",
    "job retry --state running,errored": f"--state must be one of {STATES}, got 'errored'; {FAILED}",
    "job list --state ,": f"--state must be one of {STATES}, got ','",
    "job list --limit many": "--limit must be a whole number from 1 to 10,000, got 'many'",
    "job list --limit": "--limit must have a value, got none; see: millhand job list --help",
    "job list --json=yes": "--json must have no value, got one; see: millhand job list --help",
    "job list x": "millhand job list: got unexpected extra argument (x); see: millhand job list --help",
    "job show": "ID must be given, got none; see: millhand job show --help",
    "job retry 1 2 three": "ID must be a whole number from 1 to 9,223,372,036,854,775,807, got 'three'",
    "queue pause": "NAME must be given, got none; see: millhand queue pause --help",
    "migrate up --max-steps -1": "--max-steps must be a whole number of at least 1, got '-1'",
    "orphans run --max-share 5": "--max-share must be a number from 0 to 1, got '5'",
    "orphans run --mode remove": "--mode must be one of 'report', 'quarantine', 'delete', got 'remove'",
    "worker --log-format xml": "--log-format must be one of 'auto', 'text', 'json', got 'xml'",
}


@pytest.mark.usefixtures("empty_directory")
async def test_wrong_use_is_one_line_with_the_rule_and_a_remedy() -> None:
    """Each error names what is wrong and has a near match or a help to read, on one line, with exit code 2."""
    results = {command: await millhand(*command.split()) for command in WRONG}

    assert {command: result.err for command, result in results.items()} == {
        command: f"error: {text}\n" for command, text in WRONG.items()
    }
    assert {(result.code, result.out) for result in results.values()} == {(2, "")}


@pytest.mark.usefixtures("empty_directory")
@pytest.mark.parametrize(
    "command",
    [
        "worker --queue",
        "worker --soft-stop-timeout",
        "migrate up --schema",
        "web --host",
        "dead delete --error",
        "job insert send_email --queue",
        "orphans run --max-clock-skew",
    ],
)
async def test_empty_value_is_refused(command: str) -> None:
    """`--queue "$QUEUE"` with an empty variable is an error, and not the default, which may be all queues."""
    results = [await millhand(*command.split(), value) for value in ("", " ")]

    option = command.rsplit(maxsplit=1)[-1]
    assert [(result.code, result.err) for result in results] == [
        (2, f"error: {option} must not be empty, got {value!r}\n") for value in ("", " ")
    ]
