"""Logging of a worker: formats, fields, secrets, job logs, and the handler of failed attempts."""
