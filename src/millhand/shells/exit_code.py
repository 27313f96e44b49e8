"""The exit codes of the `millhand` command and of worker processes."""

DONE = 0
NOT_DONE = 1  # the reason is on standard error
WRONG_USE = 2  # the remedy is on standard error
INTERRUPTED = 130
