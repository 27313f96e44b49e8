"""Services that one elected leader runs for all clients, and the rescue of a client's own jobs."""
