"""Which release this is; pyproject.toml says it too, and a test compares."""

VERSION = "0.1.0"
