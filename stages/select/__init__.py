"""Selectors that keep a part of the rows: the best, or so many of each kind."""
