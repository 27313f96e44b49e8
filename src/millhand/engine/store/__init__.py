"""
Statements as values: one function returns each statement with its parameters and parser.

A statement with the name of one of River's (v0.51.2) follows it: `job_cancel` is `JobCancel`.
"""
