"""Logging of a worker: formats, fields, job logs, and the handler of failed attempts."""
