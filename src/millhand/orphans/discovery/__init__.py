"""Find the columns that reference objects."""
