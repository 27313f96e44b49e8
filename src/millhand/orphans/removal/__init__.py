"""Remove and restore objects and rows, behind guards."""
