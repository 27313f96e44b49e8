"""Report what a run found and did."""
