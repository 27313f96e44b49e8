"""List the bucket and compare it with the references."""
