"""The history: what ended in each minute, with its times, failures and queues, after its rows are deleted."""
