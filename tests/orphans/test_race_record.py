"""The record of a race: the lines that a story shows of it."""

from __future__ import annotations

from pathlib import Path

from race_record import OF_ALL, Record, lines_about

LINES = (
    "0.3 P1: delete('k/05') = True",
    "0.1 app: put('k/05') …",
    "0.2 app: put('k/05') = object",
    f"0.25 P1:{OF_ALL}P1 begins",
    "0.31 P1: delete_version('k/05.anchor', 'v') = None",
    "0.32 P1: tx 7: orphan_action_insert_many {keys=['k/05']} …",
    "0.33 P2: delete('k/05') …",
    "0.34 P1: tx 7: orphan_action_insert_many {keys=['k/05']} = [2]",
    "0.35 P1: tx 7 is committed",
    "0.36 P1: tx 8 is committed",
    "0.4 P1: delete_many(['.millhand/quarantine/3/k/05']) = {}",
    "0.5 P1: orphan_action_set_state_many {ids=[2, 4], states=['purged', 'kept']} = None",
    "0.6 P1: orphan_action_set_state_many {ids=[24], states=['purged']} = None",
)


def test_a_story_has_the_lines_of_one_key_in_the_order_of_time(tmp_path: Path) -> None:
    """Lines of other keys are left out, and a call within which nothing else happened is one line."""
    path = tmp_path / "record"
    path.write_text("\n".join(LINES))

    numbers = [line.partition(" ")[0] for line in lines_about(path, "k/05", [4])]

    assert numbers == ["0.2", "0.25", "0.3", "0.32", "0.33", "0.34", "0.35", "0.4", "0.5"]


def test_a_record_keeps_what_a_killed_process_has_written(tmp_path: Path) -> None:
    """Each line is in the file at once, without a flush, and cannot be cut by a line of another process."""
    path = tmp_path / "record"
    one, other = Record(path, "P1"), Record(path, "P2")

    one("delete('k/05') …")
    other.of_all("P2 is killed\nat delete")

    assert [line.partition(" ")[2] for line in path.read_text().splitlines()] == [
        "P1: delete('k/05') …",
        f"P2: {OF_ALL}P2 is killed at delete",
    ]
