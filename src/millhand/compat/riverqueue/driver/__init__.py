"""The drivers of `riverqueue`; SQLAlchemy is the only one."""
