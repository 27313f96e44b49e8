"""Statements as values: one function returns each statement with its parameters and parser."""
