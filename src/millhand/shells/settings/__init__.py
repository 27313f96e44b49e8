"""Read settings from millhand.toml and the environment."""
