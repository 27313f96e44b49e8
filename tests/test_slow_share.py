"""Claims about the slow tests that run on a day."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from slow_share import changed_paths, runs_today

DAY = date(2026, 3, 1)
DAYS = [DAY + timedelta(days=days) for days in range(3)]

PATCH = """\
diff --git a/src/millhand/limits/pass.py b/src/millhand/limits/pass.py
index 1..2 100644
--- a/src/millhand/limits/pass.py
+++ b/src/millhand/limits/pass.py
@@ -1 +1 @@
-from millhand.store import job
+from millhand.engine import job
@@ -9 +9 @@ def begin():
-    return 1
+    return 2
diff --git a/src/millhand/flow.py b/src/millhand/flows/flow.py
similarity index 98%
--- a/src/millhand/flow.py
+++ b/src/millhand/flows/flow.py
@@ -1,3 +1,3 @@
-import millhand.store
+from millhand.db import (
+    job_list,
+)
diff --git a/tests/limits/test_limits.py b/tests/limits/test_limits.py
--- a/tests/limits/test_limits.py
+++ b/tests/limits/test_limits.py
@@ -3,0 +3,3 @@
+import pytest
+
+@pytest.mark.slow
diff --git a/docs/assets/job.png b/docs/assets/job.png
Binary files a/docs/assets/job.png and b/docs/assets/job.png differ
"""


def test_each_file_runs_on_one_of_three_days() -> None:
    """A file of which nothing changed runs on one day in three, and about as many files on each."""
    files = [f"tests/orphans/test_{number}.py" for number in range(300)]

    runs = [[path for path in files if runs_today(path, day, set())] for day in DAYS]

    assert sorted(path for paths in runs for path in paths) == sorted(files)
    assert all(70 < len(paths) < 130 for paths in runs)


@pytest.mark.parametrize(
    ("changed", "num_days"),
    [
        ("tests/limits/test_slow.py", 3),
        ("src/millhand/limits/pass.py", 3),
        ("src/millhand/limits.py", 3),
        ("src/millhand/limits_old/pass.py", 1),
        ("tests/limits/other.py", 1),
    ],
)
def test_file_runs_each_day_after_a_change(changed: str, num_days: int) -> None:
    """A slow test file runs on each day if it, or the package that its directory is named after, changed."""
    assert sum(runs_today("tests/limits/test_slow.py", day, {changed}) for day in DAYS) == num_days


def test_moved_module_is_no_change() -> None:
    """A path counts as changed if a line other than an import or the mark of a slow test changed."""
    assert changed_paths(PATCH) == {"src/millhand/limits/pass.py"}
