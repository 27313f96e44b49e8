"""The drivers of `riverqueue`: there is one, and it is SQLAlchemy."""
