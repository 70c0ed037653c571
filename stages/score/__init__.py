"""Scorers: each adds a number to a row and never drops one. One file each."""
