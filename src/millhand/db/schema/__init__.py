"""Create and change the database schema."""
