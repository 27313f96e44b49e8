"""Mail of three priorities in one queue, and slow reports in another."""
