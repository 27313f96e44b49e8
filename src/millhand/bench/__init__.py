"""
How fast this is here: no-op jobs through Millhand, and through a floor of bare asyncpg on the same tables, in one run.

Only the ratio of the two means something on another machine. `docs/explanation/performance.md` says how it is measured.
"""

from millhand.bench.place import BenchRefused
from millhand.bench.run import BenchResult, Figures, Plan, run_bench

__all__ = ["BenchRefused", "BenchResult", "Figures", "Plan", "run_bench"]
