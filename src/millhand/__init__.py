"""Millhand."""
