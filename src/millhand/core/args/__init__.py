"""Types, encoding and decoding of job args."""
