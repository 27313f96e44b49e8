"""Metrics as values: their definitions, the numbers that a client counts, and the points that a page shows."""
