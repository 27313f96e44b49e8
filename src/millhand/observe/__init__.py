"""What people see of a worker: its log."""
