"""Services that one elected leader runs for all clients."""
