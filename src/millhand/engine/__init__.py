"""One client's work: insert, fetch, execute and complete jobs, send heartbeats, lead, and rescue."""
