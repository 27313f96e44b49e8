"""PostgreSQL: drivers, statements, schema and migrations."""
