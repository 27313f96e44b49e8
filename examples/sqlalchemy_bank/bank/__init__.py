"""A bank on SQLAlchemy: the command line orders transfers, and a worker carries each of them out exactly once."""
