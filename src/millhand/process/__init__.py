"""Run a worker as an operating system process: signals, exit codes, several processes."""
