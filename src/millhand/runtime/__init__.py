"""The engine: insert, fetch, execute, complete."""
