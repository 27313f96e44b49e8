"""Schedules: jobs that are inserted again and again, kept in the database."""
