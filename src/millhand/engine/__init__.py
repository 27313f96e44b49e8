"""Start and stop the services of one client."""
