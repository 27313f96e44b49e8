"""A Django app with file fields of every form."""
