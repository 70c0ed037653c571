"""Stages as a user's own package would hold them."""
