"""The archive: finished jobs as files in a bucket or a directory, before their rows are deleted."""
