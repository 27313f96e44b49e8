"""`millhand bench`: how fast this machine and database insert and work no-op jobs."""

from millhand.bench.bench_run import BenchResult, Figures, Plan, run_bench
from millhand.bench.bench_schema import BenchRefused

__all__ = ["BenchRefused", "BenchResult", "Figures", "Plan", "run_bench"]
