"""Other libraries' interfaces on Millhand, so that code moves over by its imports."""
