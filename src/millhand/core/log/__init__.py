"""Loggers whose messages carry their fields, and fields as text."""
