"""Drivers: run a statement on a database library's pool or connection. Only these modules import one."""
