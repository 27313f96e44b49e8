"""Millhand inside other people's frameworks: a package for each, which nothing else here imports."""
