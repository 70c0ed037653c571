"""Filters: they keep or reject a row by its columns, and never compute."""
