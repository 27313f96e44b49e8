"""The app: orders and their jobs."""
