"""The release's version. `pyproject.toml` has it too, and a test compares them."""

VERSION = "0.2.0"
