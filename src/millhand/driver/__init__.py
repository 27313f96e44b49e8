"""The only rooms with a wire to PostgreSQL."""
