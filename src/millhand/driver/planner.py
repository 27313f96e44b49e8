"""How the server plans Millhand's statements."""

from __future__ import annotations

# Set on the driver's own connections. The statements are few and each is meant for one index. A plan for the parameters
# of each call costs more than the fetch itself (0.1 of 0.2 ms; bench 2026-11). A plan made while the table was empty
# would scan the whole table until the next ANALYZE.
PLANNER_SETTINGS = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
