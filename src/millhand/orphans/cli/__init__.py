"""`millhand orphans`."""
