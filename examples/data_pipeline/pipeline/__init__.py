"""A nightly pipeline: import the sales of each shop from a partner, then report the day."""
