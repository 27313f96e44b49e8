"""How the server is to plan our statements."""

from __future__ import annotations

# On our own connections. The statements are few, fixed and meant for their indexes. A plan made for the parameters of
# each call costs more than the fetch it is for (0.1 of 0.2 ms; bench 2026-11), and one that was made while the table
# was empty would read the whole table until the next ANALYZE.
PLANNER_SETTINGS = {"enable_seqscan": "off", "jit": "off", "plan_cache_mode": "force_generic_plan"}
