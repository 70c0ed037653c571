"""Selectors that find duplicates."""
