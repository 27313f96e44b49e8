"""The mill: insert, fetch, execute, complete."""
