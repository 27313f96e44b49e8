"""The benchmark of fan-outs beside peers: its audit and its tables, its killed processes, and Millhand in a small run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from client_harness import until

sys.path += [str(Path(__file__).parents[2] / place) for place in ("benchmarks", "benchmarks/peers")]

import flow_journal
import flow_peers as program
from benchmark_page import PROJECT, heads, rows, section, section_of_a_small_run, tables
from flow_journal import BEGAN, CALLBACK, ENDED, Audit, Entry, audited
from flow_plan import CONTRACTS, FIRST, NOT_MEASURED, WAYS
from flow_system import FlowSystem
from flow_workers import PlacedWorkers
from harness import Order

PROGRAM = "flow_peers.py"
PAGE = PROJECT / "benchmarks/peers.md"
SMALL = (
    "--systems", "millhand", "--rounds", "1", "--parts", "200",
    "--fan-outs", "8", "--small-parts", "30", "--seconds", "4", "--rest", "1",
)  # fmt: skip
FIRST_WAY, OTHER_WAY = WAYS[:2]


def entries(fan_out: int, *written: tuple[int, int, int]) -> list[Entry]:
    """Return entries of a fan-out from triples of an instant, a part and an event."""
    return [Entry(at, fan_out, part, event, 1) for at, part, event in written]


def ran(fan_out: int, num_parts: int) -> list[Entry]:
    """Return the entries of a fan-out in which each part, and then the callback, ran once."""
    parts = [(n + event, n, event) for n in range(num_parts) for event in (BEGAN, ENDED)]
    return entries(fan_out, *parts, (num_parts + 1, CALLBACK, BEGAN), (num_parts + 2, CALLBACK, ENDED))


def line(way: program.Way, title: str, number: int, **figures: Any) -> dict[str, Any]:
    return {"name": way.name, "title": title, "round": number, "figures": figures, "load": 2.0}


def test_a_fan_out_whose_callback_ran_once_and_last_is_sound() -> None:
    """The audit counts nothing in fan-outs that ran as they should."""
    assert audited([*ran(1, 3), *ran(2, 3)], {1, 2}, 3) == Audit(2, 0, 0, 0, 0, 0)


def test_a_callback_that_never_ended_is_lost() -> None:
    """A callback that began and did not end is lost, and so is one of a fan-out with no entry at all."""
    begun = [one for one in ran(1, 2) if (one.part, one.event) != (CALLBACK, ENDED)]

    assert audited(begun, {1, 2}, 2) == Audit(2, lost=2, twice=0, early=0, parts_lost=2, parts_again=0)


def test_a_callback_is_early_beside_a_part_that_ended_later_or_never() -> None:
    """The first begin of the callback counts, and the first end of each part."""
    later = entries(1, (1, 0, ENDED), (2, CALLBACK, BEGAN), (3, CALLBACK, ENDED), (4, 1, ENDED))
    never = entries(2, (1, 0, ENDED), (2, CALLBACK, BEGAN), (3, CALLBACK, ENDED))
    again = entries(
        3, *((1, n, ENDED) for n in (0, 1)), (2, CALLBACK, BEGAN), (3, CALLBACK, ENDED), (4, 1, ENDED)
    )

    assert audited(later, {1}, 2).early == 1
    assert audited(never, {2}, 2).early == 1
    assert audited(again, {3}, 2) == Audit(1, lost=0, twice=0, early=0, parts_lost=0, parts_again=1)


def test_a_callback_that_was_killed_and_ran_again_did_not_run_twice() -> None:
    """Only a second end counts as a second run."""
    killed = [*ran(1, 1), Entry(9, 1, CALLBACK, BEGAN, 2)]
    twice = [*killed, Entry(10, 1, CALLBACK, ENDED, 2)]

    assert [audited(some, {1}, 1).twice for some in (killed, twice)] == [0, 1]


def test_fan_outs_that_are_not_asked_for_are_left_out() -> None:
    """The warm-up writes to the same journal."""
    assert audited([*ran(0, 9), *ran(1, 1)], {1}, 1) == Audit(1, 0, 0, 0, 0, 0)


def test_the_journal_reads_only_whole_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read returns what is new, and leaves an entry that is not yet whole to the next read."""
    monkeypatch.setattr(flow_journal, "_files", [])
    with flow_journal.new_journal() as journal:
        flow_journal.write(7, 0, BEGAN)
        assert [(one.fan_out, one.part, one.event, one.pid) for one in journal.read()] == [
            (7, 0, BEGAN, os.getpid())
        ]
        whole = flow_journal.ENTRY.pack(1, 7, CALLBACK, ENDED, 2)
        with journal.path.open("ab") as file:
            file.write(whole[:5])
            file.flush()
            assert journal.read() == []
            file.write(whole[5:])
        assert journal.read() == [Entry(1, 7, CALLBACK, ENDED, 2)]
        assert journal.called_back == {7}
        os.close(flow_journal._files[0])


class Sleeping(FlowSystem):
    """A worker that starts a child, writes the ids of both, and sleeps."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def command_at(self, place: int) -> list[str]:
        words = f'sleep 600 & echo "$$ $! $BENCH_PLACE" >>{self.directory}/started; wait'
        return ["sh", "-c", words]


def started(directory: Path) -> list[list[str]]:
    path = directory / "started"
    return [text.split() for text in path.read_text().splitlines()] if path.exists() else []


async def until_started(directory: Path, num: int) -> list[list[str]]:
    """Wait for so many lines of started workers."""
    await until(lambda: len(started(directory)) >= num)
    return started(directory)


def is_running(pid: str) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_killed_worker_dies_with_its_child_and_another_takes_its_place(tmp_path: Path) -> None:
    """A kill ends the process and its child, and starts one with the same place; others run on."""
    workers = PlacedWorkers(Sleeping(tmp_path), Order("kills", processes=2))
    try:
        before = {place: pids for *pids, place in await until_started(tmp_path, 2)}
        workers.kill(1)
        *_, (*pids, place) = await until_started(tmp_path, 3)

        await until(lambda: not any(map(is_running, before["1"])))
        assert place == "1"
        assert all(map(is_running, [*before["0"], *pids]))
        assert workers.num_exits == 0
    finally:
        workers.stop()
    await until(lambda: not any(is_running(pid) for *some, _ in started(tmp_path) for pid in some))


async def test_a_worker_that_exits_is_started_again_and_counted(tmp_path: Path) -> None:
    """An exit without a kill is counted, because it is a fault of the system."""
    workers = PlacedWorkers(Sleeping(tmp_path), Order("kills", processes=1))
    try:
        [[pid, *_]] = await until_started(tmp_path, 1)
        workers.restart_exited()
        assert workers.num_exits == 0
        os.kill(int(pid), signal.SIGKILL)
        await until(lambda: workers.restart_exited() or workers.num_exits)
        *_, (_, _, place) = await until_started(tmp_path, 2)

        assert place == "0"
    finally:
        workers.stop()


def test_the_table_of_callbacks_has_ratios_of_each_round() -> None:
    """A round has the median of its fan-outs, and the ratio of another way is to ours of the same round."""
    lines = [
        line(way, program.CALLBACK, number, callback_ms=[ms - 1, ms, ms * 9], join_ms=[2.0], insert_ms=[3.0])
        for way, number, ms in (
            (FIRST_WAY, 1, 100.0), (FIRST_WAY, 2, 200.0), (OTHER_WAY, 1, 300.0), (OTHER_WAY, 2, 800.0),
        )
    ]  # fmt: skip

    assert list(rows(program.callback_table(program.Figures(lines))).items())[2:] == [
        (FIRST_WAY.name, ["-", "150 ms (100 ms to 200 ms)", "2 ms", "3 ms"]),
        (OTHER_WAY.name, ["3.5 (3.0 to 4.0)", "550 ms (300 ms to 800 ms)", "2 ms", "3 ms"]),
    ]


def test_the_table_of_kills_sums_the_rounds() -> None:
    """Counts are sums of all rounds; what no system may do is in bold."""
    counts = {
        "fan_outs": 600,
        "kills": 29,
        "lost": 0,
        "parts_lost": 1,
        "early": 2,
        "twice": 3,
        "parts_again": 700,
    }
    lines = [
        line(OTHER_WAY, program.KILLS, number, **counts, seconds_after=seconds)
        for number, seconds in ((1, 4.0), (2, 9.0))
    ]

    cells = rows(program.kills_table(program.Figures(lines)))[OTHER_WAY.name]

    assert cells == ["1,200", "58", "0", "**2**", "**4**", "6", "1,400", "9 s"]


def test_a_system_that_failed_or_is_missing_is_named_with_its_reason() -> None:
    """A failure is in the report, and so is each system that did not run."""
    known = {"about": ["- A machine."], "missing": {OTHER_WAY.system: "no redis"}}

    said = program.report([line(FIRST_WAY, program.KILLS, 1, error="no\n queue")], known).splitlines()

    assert f"{FIRST_WAY.name}, {program.KILLS}, failed: no queue" in said
    assert f"- {OTHER_WAY.shown}: no redis." in said
    assert {f"- {name}: {reason}." for name, reason in NOT_MEASURED.items()} <= set(said)


def test_each_way_has_a_contract() -> None:
    """The table of contracts has a line for each way, with a cell for each head, and ours is the first."""
    assert list(CONTRACTS) == [way.name for way in WAYS]
    assert {len(said) + 1 for said in CONTRACTS.values()} == {len(program.CONTRACT_HEADS)}
    assert FIRST_WAY.shown == FIRST


def test_the_page_has_what_the_program_says() -> None:
    """The page has the columns and contracts of the program, a line of figures for each way, and no failure."""
    text, no_figures = section(PAGE, PROGRAM), program.Figures([])
    of_callback, of_kills, contracts = tables(text)

    for found, own in (
        (of_callback, program.callback_table(no_figures)),
        (of_kills, program.kills_table(no_figures)),
    ):
        assert heads(found) == heads(own)
        assert list(rows(found))[2:] == [way.name for way in WAYS]
    assert contracts == program.contracts_table()
    assert text.rstrip().endswith(program.not_measured({}))
    assert " failed: " not in text


@pytest.mark.slow
async def test_millhand_loses_no_callback_in_a_small_run(tmp_path: Path) -> None:
    """A small run on real servers writes its tables between the marks: no callback is lost, and none is early."""
    text = await section_of_a_small_run(PROGRAM, tmp_path, *SMALL, "--keep", str(tmp_path))

    assert " failed: " not in text
    of_callback, of_kills, _ = tables(text)
    assert list(rows(of_callback))[2:] == list(rows(of_kills))[2:] == [FIRST_WAY.name]
    callbacks, kills, lost, parts_lost, early, *_ = rows(of_kills)[FIRST_WAY.name]
    assert (callbacks, lost, parts_lost, early) == ("8", "0", "0", "0")
    assert int(kills) >= 1
