"""What other libraries' calls find here, so that code moves over by its imports."""
