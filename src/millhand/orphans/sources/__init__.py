"""Read which objects the application's rows reference."""
