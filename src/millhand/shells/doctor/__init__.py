"""What checks of any capability return."""
